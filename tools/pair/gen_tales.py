#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Very short children's tales from a grammar: running prose that a tiny model can hold together.

    gen_tales.py --n 3 --seed 1

Books are far beyond a model of a few million parameters, which falls into loops on
them. A tale keeps one child, one animal, one thing and one place, says what happens
to them in a handful of sentences and stops. The wording of the template is easy, the
choices are open, and the names to be carried along are where a larger model helps.
"""
import argparse
import random

GIRLS = "Ann Cara Eve Hana June Lena Nora Pia Rosa Tess Mary Alice Dorothy Betty Lucy".split()
BOYS = "Ben Dan Finn Gus Ivan Kofi Max Omar Sam Tom Jack Peter Will Harry Ned".split()
SIZES = "little small young".split()
PLACES = ("a small house by the sea", "a cottage at the edge of the forest", "a village under the hill",
          "an old mill by the river", "a tall house in the town", "a farm near the lake", "a hut on the mountain")
ANIMALS = "dog cat rabbit bird fox mouse horse duck bear goat".split()
THINGS = ("red ball", "silver key", "blue kite", "wooden boat", "golden ring", "warm coat", "old book",
          "little bell", "paper crown", "round stone", "green hat", "bright lamp")
FINDS = ("under a tree", "in the garden", "by the river", "behind the door", "on the road", "in the tall grass")
WEATHER = ("The sun was shining", "It was raining", "The wind was cold", "Snow lay on the ground",
           "The sky was clear and blue", "A thick mist covered the fields")
TIMES = ("One day", "One morning", "One evening", "One summer day", "One winter night", "The next day")
MOODS = "happy sad tired glad hungry curious proud brave quiet lonely".split()
FOODS = "bread apples cake milk soup honey nuts berries".split()
DEEDS = ("ran home as fast as {p} could", "sat down and thought for a while", "called out as loud as {p} could",
         "climbed to the top of the hill", "looked in every corner of the house", "walked along the river until dark")
ENDS = ("And from that day on they were the best of friends.", "And they all lived happily ever after.",
        "That night {n} slept very well.", "And {n} never forgot that day.",
        "Then they went home together, and that is the end of the story.",
        "And if you go to that place, you may still see {n} and the {a} there.")


def tale(r):
    girl = r.random() < .5
    n, p, P, own, kind = ((r.choice(GIRLS), "she", "She", "her", "girl") if girl else
                          (r.choice(BOYS), "he", "He", "his", "boy"))
    him = "her" if girl else "him"
    a, b = r.sample(ANIMALS, 2)
    t, place, where, mood, food = r.choice(THINGS), r.choice(PLACES), r.choice(FINDS), r.choice(MOODS), r.choice(FOODS)
    size, pick = r.choice(SIZES), r.choice
    s = [pick((f"Once upon a time there was a {size} {kind} who lived in {place}. {own.capitalize()} name was {n}.",
               f"Once upon a time there was a {size} {kind} named {n}, who lived in {place}.",
               f"There was once a {size} {kind} called {n}. {P} lived in {place}.",
               f"{n} was a {size} {kind} who lived in {place}.",
               f"In {place} there lived a {size} {kind} whose name was {n}."))]
    if r.random() < .7:
        s.append(pick((f"{n} had a {a}, and the {a} went with {him} everywhere.",
                       f"{own.capitalize()} best friend was a {a}.",
                       f"{P} had no brothers and no sisters, but {p} had a {a}.")))
    else:
        s.append(pick((f"Every day {n} gave some {food} to a {a} that came to the door.",
                       f"{n} was often {mood}, and {p} wished for a friend.")))
    s.append(f"{pick(TIMES)} {n} " + pick((f"found a {t} {where}.", f"went out to look for {food}.",
                                          f"lost {own} {t} {where}.", f"saw a {a} {where}.")))
    if r.random() < .6:
        s.append(f"{pick(WEATHER)}, and {n} was {pick(MOODS)}.")
    story = r.randrange(4)
    if story == 0:                                  # something is lost and found
        s += [f'"Where is my {t}?" said {n}. {P} {pick(DEEDS).format(p=p)}, but {p} could not find it.',
              f'Then a {b} came {where}. "I know where your {t} is," said the {b}. "Give me some {food}, and I will show you."',
              f"So {n} gave the {b} some {food}, and the {b} brought {him} the {t}."]
    elif story == 1:                                # somebody needs help
        s += [f'There {p} met a {b} who was {pick(MOODS)}. "What is the matter?" asked {n}.',
              f'"I have lost my {t}," said the {b}. "Will you help me?"',
              f'"Yes, I will help you," said {n}. {P} {pick(DEEDS).format(p=p)}.',
              f"At last {p} found the {t} {pick(FINDS)}. The {b} was very happy and thanked {n}."]
    elif story == 2:                                # a bargain
        s += [f'A {b} looked at {him} and said, "Give me your {t}, and I will give you some {food}."',
              f'"No," said {n}, "I will not give you my {t}. But we can share the {food}."',
              f"So the {b} and {n} sat down {pick(FINDS)} and ate the {food}."]
    else:                                           # a journey
        s += [f'"I want to see the world," said {n} to the {a}. "Will you come with me?"',
              f'"Yes," said the {a}, "but we must take some {food} with us."',
              f"They walked for {r.randint(2, 9)} days. {P} {pick(DEEDS).format(p=p)}, and the {a} followed {him}.",
              f"In the end they came to {pick(PLACES)}, and there they found a {t}."]
    s.append(pick(ENDS).format(n=n, a=a if story == 3 else b))
    return pick((" ", " ", "\n\n")).join(s)


def generate(seed):
    r = random.Random(seed)
    while True:
        yield tale(r)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--n", type=int, default=3)
    ap.add_argument("--seed", type=int, default=1)
    a = ap.parse_args()
    tales = generate(a.seed)
    for _ in range(a.n):
        print(next(tales) + "\n")


if __name__ == "__main__":
    main()
