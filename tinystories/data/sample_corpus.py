"""Short, simple children's stories, made from a seed.

With this module everything works without a download: it writes any number of different little stories, the same ones
for the same seed. Every sentence was written for this project. The language is plain and regular, so that a very small
model can tell a story of its own after a minute of training.

Print three stories:

    python -m tinystories.data.sample_corpus --num_stories 3 --seed 0

How the text of a plot is written (Teller.tell turns it into a story):

    [red|big|]                    one of the choices, drawn for each story; choices may hold choices
    "Where is it?" <Mia>.         the tag follows from how the words end: "Where is it?" Mia asked.
    a owl                         always "a": it becomes "an" where the sound of the next word asks for it
    an empty line                 the next paragraph
"""

import argparse
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar


T = TypeVar("T")

END_OF_STORY = "<|endoftext|>"


def words(text: str) -> list[str]:
    return text.split()


GIRLS = words("Ada Lily Mei Mia Noor Rosa Tara Zuri")
BOYS = words("Amir Ben Finn Kofi Leo Max Sam Tom")
ANIMAL_NAMES = words("Clover Cocoa Hazel Nutmeg Pebble Pip Plum Poppy")
ANIMALS = words("bear duck fox frog mouse owl rabbit squirrel")
ELDERS = ("mom", "dad", "grandma", "grandpa")
PRONOUNS = {"girl": ("she", "her", "her"), "boy": ("he", "him", "his")}

TRAIT = "[little|little|little|young|happy|curious|cheerful|clever|funny|playful|lively|eager]"
KIND_TRAIT = f"[{TRAIT}|kind|gentle|friendly]"
HOMES = (
    "in a small village by the sea",
    "in a little house on a hill",
    "on a farm near a river",
    "in a green valley",
    "at the edge of a big forest",
    "near a quiet lake",
    "on an island with many flowers",
    "by an old stone bridge",
    "in a warm and sunny land",
    "near the tall mountains",
    "beside a wide river",
    "not far from the sea",
)
FAIR_DAY = """[One day|One day|One day|One sunny morning|One fine day|One warm afternoon|One bright morning|
One quiet afternoon|Early one morning|One spring day|One summer day|One Saturday]"""
ANY_DAY = "[One day|One day|One morning|One afternoon|One Sunday|After lunch one day|One cold day]"
NIGHT = "[One night|One night|One winter night|One rainy night|One windy night]"
GREEN_PLACE = "[the big park|the green meadow|the little garden|the playground|a field of flowers|an open field]"
ROOM_SPOTS = (
    "under the big bed",
    "behind the soft couch",
    "in the dark closet",
    "under the round table",
    "behind the red curtain",
    "in the empty basket",
    "under the stairs",
    "behind the tall shelf",
    "under a big pile of clothes",
)

COLORS = ("red", "blue", "green", "yellow", "orange", "purple", "pink", "brown", "white", "silver")
TOYS = {
    "ball": "[big|bouncy|round|shiny]",
    "toy train": "[long|shiny|old]",
    "toy boat": "[little|shiny|old]",
    "toy car": "[fast|shiny|tiny]",
    "drum": "[little|loud|round]",
    "puppet": "[funny|floppy|one-eyed]",
    "doll": "[pretty|little|old]",
}
JUNK = """[an old sock|a broken pencil|a spoon|an empty box|a paper hat|some dust|a lost button|an apple core|a spider|
an umbrella|two dusty books|a single glove|an acorn|an egg cup|an orange ribbon]"""
TREAT = """[warm cookies|apple pie|sweet oranges|hot soup|bread with honey|pancakes|berries with cream|strawberry cake|
corn with butter|rice pudding|slices of melon]"""
GIFT = """[book about the stars|box of paints|warm wool scarf|little guitar|jar of honey|useful red bag|unicorn mask|
umbrella with yellow ducks|orange kite|music box|hat with a blue feather]"""

NEW_LINE = re.compile(r"\|\n\s*")
CHOICE = re.compile(r"\[([^\[\]]*)\]")
TAG = re.compile(r'([.?!])"\s+<([^<>]+)>')
BEGINNING = re.compile(r"(?:^|(?<=[.!?] ))the ", re.MULTILINE)
ARTICLE = re.compile(r"\b([Aa])n? (?=([a-z]+))")


@dataclass(frozen=True)
class Hero:
    """The one with a name in a story, with the words that stand for them.

    A story has one name: a model this small holds one, and mixes up two.
    """

    name: str
    kind: str
    what: str
    he: str
    him: str
    his: str

    def __str__(self) -> str:
        return self.name

    @property
    def who(self) -> str:
        return f"{self.what} named {self.name}"

    @property
    def He(self) -> str:
        """The beginning of a sentence: more often the name than the pronoun."""
        return f"[{cap(self.he)}|{self}|{self}]"

    @property
    def His(self) -> str:
        return cap(self.his)


@dataclass(frozen=True)
class Friend:
    """An animal without a name: "a kind fox", and then "the fox"."""

    who: str
    kind: str

    def __str__(self) -> str:
        return f"the {self.kind}"


def cap(text: str) -> str:
    return text[0].upper() + text[1:]


def article(word: str) -> str:
    """Return "a" or "an", by the sound with which the word begins."""
    if word.startswith(("hour", "honest")):
        return "an"
    return "an" if word[0] in "aeiou" and not word.startswith(("uni", "use", "one")) else "a"


class Teller:
    """Draws the people and the things of one story, and tells it."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.taken: list[str] = []

    def pick(self, *options: T) -> T:
        return self.rng.choice(options)

    def new(self, options: Iterable[str]) -> str:
        """Draw a word that this story does not have yet."""
        word = self.rng.choice([option for option in options if option not in self.taken])
        self.taken.append(word)
        return word

    def child(self, trait: str = TRAIT) -> Hero:
        sex = self.pick("girl", "boy")
        return Hero(self.new(GIRLS if sex == "girl" else BOYS), sex, self.fill(f"a {trait} {sex}"), *PRONOUNS[sex])

    def animal(self) -> Hero:
        kind, sex = self.new(ANIMALS), self.pick("girl", "boy")
        return Hero(self.new(ANIMAL_NAMES), kind, self.fill(f"a {TRAIT} {kind}"), *PRONOUNS[sex])

    def hero(self) -> Hero:
        return self.child() if self.rng.random() < 0.6 else self.animal()

    def friend(self, kinds: Iterable[str] = ANIMALS) -> Friend:
        kind = self.new(kinds)
        return Friend(self.fill(f"a {KIND_TRAIT} {kind}"), kind)

    def elder(self) -> str:
        return self.pick(*ELDERS)

    def toy(self) -> tuple[str, str]:
        noun, color = self.pick(*TOYS), self.pick(*COLORS)
        return self.fill(f"[{TOYS[noun]} {color}|{TOYS[noun]} {color}|{TOYS[noun]}|{color}] {noun}"), noun

    def opening(self, hero: Hero, day: str, did: str, about: str) -> str:
        """Tell who the story is about, and what happened on the day when it begins.

        Some begin with a name and no more, as many a reader's beginning does.
        """
        who, home, about = hero.who, self.pick(*HOMES), self.fill(about)
        draw = self.rng.random()
        if hero.kind in PRONOUNS and draw < 0.15:
            return f"{day}, {hero} {did}. {about}"
        if hero.kind in PRONOUNS and draw < 0.3:
            return f"{self.with_name(hero, about)} {day}, {hero} {did}."
        if draw < 0.4:
            return f"{day}, {who} {did}. {about}"
        once = f"[there was {who}|{home}, there lived {who}|{who} lived {home}|there was {who}]"
        other = f"""[{cap(home)}, there lived {who}|Long ago, there was {who} who lived {home}|
            {hero} was {hero.what} who lived {home}|There was once {who}]"""
        return f"{f'Once upon a time, {once}' if draw < 0.88 else other}. {about} {day}, {hero} {did}."

    def with_name(self, hero: Hero, sentence: str) -> str:
        """The sentence with the name for the pronoun at its beginning."""
        first, rest = sentence.split(" ", 1)
        name = {cap(hero.he): hero.name, hero.His: f"{hero}'s"}.get(first, first)
        return f"{name} {rest}"

    def ending(self, hero: Hero, morals: str) -> str:
        glad = f"""[That night, {hero} fell asleep with a smile.|{hero} was very happy.|It was a day that {hero} never
            forgot.|What a good day it was for {hero}!]"""
        return f"[{glad}|{morals}|{morals}|{morals}]"

    def fill(self, text: str) -> str:
        text = NEW_LINE.sub("|", text)
        while "[" in text:
            text = CHOICE.sub(lambda match: self.rng.choice(match[1].split("|")), text)
        return text

    def tag(self, match: re.Match) -> str:
        mark, who = match.groups()
        verb = {"?": "asked", "!": self.pick("cried", "called", "shouted"), ".": "said"}[mark]
        order = f"{who} {verb}" if who in ("he", "she", "they") else self.pick(f"{verb} {who}", f"{who} {verb}")
        return f'{mark.replace(".", ",")}" {order}'

    def tell(self, *paragraphs: str) -> str:
        text = TAG.sub(self.tag, self.fill("\n\n".join(paragraphs)))
        text = ARTICLE.sub(lambda match: match[1] + article(match[2])[1:] + " ", text)
        text = "\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
        return BEGINNING.sub("The ", text)


# The plots. Each one is a story with a beginning, a problem, a turn and an end. Who or what a story speaks of again, it
# calls by the same word, from the beginning to the end.


def lost_toy(t: Teller) -> str:
    h, elder, (full, toy) = t.child(), t.elder(), t.toy()
    first, last = (t.new(ROOM_SPOTS) for _ in range(2))
    moral = f"""[From that day on, {h} put the {toy} back in its place every night.|
        {h} learned that it helps to stay calm and think.]"""
    return t.tell(
        t.opening(
            h,
            ANY_DAY,
            f"[could not find {h.his} {toy}|saw that {h.his} {toy} was gone]",
            f"[{h.His} favorite toy was a {full}.|{h.He} loved {h.his} {full} very much.]",
        ),
        f"""
        "[Where is my {toy}|Oh no, where is my {toy}]?" <{h}>. {h.He} looked {first}, but {h.he} found only {JUNK}.

        {h.His} {elder} [heard {h.him} and came in|sat down beside {h.him}]. "[Where did you play with it last|Can you
        remember when you had it last]?" <{h.his} {elder}>. {h} [thought and thought|closed {h.his} eyes and thought].

        {h} [jumped up and ran to look|stood up and looked|got up and looked] {last}. There was the {toy}! {h} held it
        tight and gave {h.his} {elder} a hug.
        {t.ending(h, moral)}""",
    )


def sharing(t: Teller) -> str:
    h, (full, toy), f = t.hero(), t.toy(), t.friend()
    moral = f"""[{h} learned that a toy is more fun when you share it.|From that day on, {h} and {f} were good friends.|
        "Two are better than one," {h} said to {f}.]"""
    return t.tell(
        t.opening(
            h,
            FAIR_DAY,
            f"[took a {full} to|played with a {full} in] {GREEN_PLACE}",
            f"""[{h.He} had many toys, but {h.he} did not like to share them.|
        {h.He} never let anybody touch {h.his} toys.]""",
        ),
        f"""
        {cap(f.who)} came by. "[May I play with you|Can I have a turn with the {toy}]?" <{f}>. "[No, this is my {toy}|
        No, it is mine|Go away]!" <{h}>. {f} [looked down and walked away|turned around and went to sit under a tree].

        {h} played [alone, but it was not much fun|for an hour, but soon {h.he} was bored]. "I am sorry, [come and
        play with me|let us play together|you can have the {toy} now]." <{h}>.

        {h} and {f} played together. They [took turns and laughed a lot|ran and played until the sun went down|
        danced and jumped on the grass]. {t.ending(h, moral)}""",
    )


def afraid_of_the_dark(t: Teller) -> str:
    h, elder = t.child(), t.elder()
    shape = t.pick(
        "coat on a chair", "pile of pillows", "plant with big leaves", "hat on top of a lamp", "bag on a hook"
    )
    return t.tell(
        t.opening(
            h,
            NIGHT,
            "[could not fall asleep|woke up, and it was still dark|lay in bed and could not sleep]",
            f"[{h.He} was afraid of the dark.|{h.He} did not like to sleep without a light.]",
        ),
        f"""
        {h} saw [a monster|a giant with long arms|a hungry wolf|a witch|an angry king|an ugly troll] [near the door|
        by the little window|in the dark corner]. "[Please come|Help me]!" <{h}>.

        {h.His} {elder} came in and held {h.his} hand. "[Let us look at it together|Do not worry|
        I am here with you|It cannot hurt you]." <{h.his} {elder}>.
        They turned on the light. It was only a {shape}! {h} and {h.his} {elder} began to laugh.

        {h} said good night to {h.his} {elder} and turned off the light. [Soon {h.he} was fast asleep|After that night,
        {h} was not afraid of the dark anymore|Now the dark felt soft and warm, like a blanket].""",
    )


def hurt_animal(t: Teller) -> str:
    h, elder = t.child(KIND_TRAIT), t.elder()
    animal, part, food, left = t.pick(
        ("duck", "foot", "some oats", "swam away"),
        ("frog", "leg", "some flies", "jumped into the pond"),
        ("mouse", "foot", "some seeds", "ran into the grass"),
        ("owl", "wing", "a bit of meat", "flew to the forest"),
        ("rabbit", "leg", "a carrot", "hopped into the bushes"),
        ("squirrel", "leg", "a few nuts", "ran up an oak tree"),
    )
    return t.tell(
        t.opening(
            h,
            FAIR_DAY,
            "[walked along the river|went to pick some flowers|played near the trees|took a walk by the pond]",
            f"[{h.He} loved all animals.|{h.He} wanted to be an animal doctor one day.]",
        ),
        f"""
        Suddenly, {h} heard a small sound under a bush. It was a [little|tiny|young] {animal} with a hurt {part}.
        "[Do not be afraid|Oh, you poor thing]." <{h}>. {h.He} carried the {animal} home [very gently|in {h.his} hat|
        in a basket|in both hands].

        "[We must be gentle|It needs time and rest|We will take care of it|You have a kind heart]." <{h.his} {elder}>.
        Every day, {h} gave the {animal} some water and {food}. [After two weeks|At last], the {part} was well again.

        {h} and {h.his} {elder} took the {animal} outside, and it {left}. [{h} was a little sad, but glad too.|"Goodbye,
        my friend!" <{h}>.|Sometimes the {animal} came back to visit.|Helping the {animal} made {h} feel warm inside.|
        "You were a very good friend to the {animal}." <{h.his} {elder}>.]""",
    )


def rainy_day(t: Teller) -> str:
    h, elder = t.child(), t.elder()
    goal = t.pick("the beach", "the park", "the zoo", "the lake")
    made, source, game = t.pick(
        ("castle", "pillows and blankets", "guarded the gate from a dragon"),
        ("ship", "a big empty box", "sailed across the blue rug"),
        ("tent", "two chairs and a sheet", "told stories inside it"),
        ("rocket", "an old box and some tape", "flew to the moon and back"),
        ("train", "six old chairs", "rode to a land far away"),
    )
    moral = f"""[{h} learned that a rainy day can be fun too.|"I hope it rains again tomorrow!" <{h}>.|
        A gray day can be a good day if you have an idea.]"""
    return t.tell(
        t.opening(
            h,
            "[One day|One morning|One Saturday|One Sunday]",
            f"[wanted|got ready|had a plan] to go to {goal}",
            f"[{h.He} loved to play outside.|{h.He} liked to run and jump all day long.]",
        ),
        f"""
        But [big drops of rain began to fall|the sky turned gray, and it began to rain]. "[Now we have to stay inside|
        Now we cannot go to {goal}]!" <{h}>.

        Then {h.his} {elder} had an idea. "[What can we make from {source}|Could you make something from {source}]?"
        <{h.his} {elder}>. So {h} and {h.his} {elder} made a {made} from {source}. {h.He} {game}.

        [When the rain stopped, {h} was still in the {made}.|In the evening, {h} and {h.his} {elder} ate {TREAT} in the
        {made}.] {t.ending(h, moral)}""",
    )


def new_friend(t: Teller) -> str:
    h, f = t.hero(), t.friend()
    hobby = t.pick("sing", "paint", "dance", "tell jokes", "look at the clouds", "make up stories")
    moral = f"""[From that day on, {h} and {f} played together every day.|One little hello can make a new friend.|
        {h} was glad that {h.he} had been brave.]"""
    return t.tell(
        t.opening(
            h,
            FAIR_DAY,
            "[sat alone near|went all alone to] [the little pond|the old oak tree|the green hill|the cold stream]",
            f"""[{h.He} was new there and had no friends yet.|{h.He} was shy and did not have many friends.|
        {h.He} wished for a friend to play with.]""",
        ),
        f"""
        Then {h} saw {f.who}. [At last, {h} took a deep breath and walked over to {f}|{h} took one small step, and then
        one more]. "Hello, I am {h}." <{h.he}>. "Do you like to {hobby}?"

        "[Yes, very much|Yes, I do it every day|Yes, I love that]." <{f}>. "[I am glad that you came|I am happy to meet
        you, {h}]."

        So {h} and {f} began to {hobby} together. {t.ending(h, moral)}""",
    )


def planting(t: Teller) -> str:
    h, elder = t.hero(), t.elder()
    seed, plant, use = t.pick(
        ("bean", "tall green plant", f"{h} and {h.his} {elder} picked the beans and made some soup."),
        ("pumpkin seed", "big orange pumpkin", f"{h} and {h.his} {elder} made some soup for everybody."),
        ("strawberry seed", "strawberry plant", f"{h} gave the first sweet strawberry to {h.his} {elder}."),
        ("sunflower seed", "tall sunflower", f"It was as tall as {h.his} {elder}."),
    )
    return t.tell(
        t.opening(
            h,
            "[One spring morning|One spring day|One day in spring]",
            f"got a {seed} from {h.his} {elder}",
            f"[{h.He} liked to dig in the dirt.|{h.He} did not like to wait.|{h.He} loved plants and flowers.]",
        ),
        f"""
        "[Plant it and give it some water|Put it in the ground and take care of it]." <{h.his} {elder}>. So {h} made a
        hole [in the little garden|near the old wall|beside the long path] and put the {seed} in it.

        Every day, {h} [gave it some water|ran outside to look]. "[Is it asleep|Why does it take so long|Did I do it
        wrong]?" <{h}>. "[Give it time|Good things take time]." <{h.his} {elder}>.

        [Then one morning, there was a tiny green leaf|At last, a little green leaf came up]! Week by week it grew, and
        in the end, there was a {plant}. [{use}|{use}|{h} learned that good things need time and care.]""",
    )


def broken_thing(t: Teller) -> str:
    h, elder = t.child("[little|little|young|lively|playful|honest|quick|busy]"), t.elder()
    noun = t.pick("vase", "cup", "plate", "bowl", "lamp")
    moral = f"""[{h} felt light and happy again.|It is hard to tell the truth, but it feels good.|
        After that, {h} went outside when {h.he} wanted to run.]"""
    return t.tell(
        t.opening(
            h,
            ANY_DAY,
            """[threw a ball inside the house|ran through the house very fast|danced in the living room|
        jumped up and down on the couch]""",
            f"[{h.He} was always in a hurry.|{h.He} could never sit still.]",
        ),
        f"""
        Crash! A [{"|".join(COLORS)}] {noun} fell down and broke. {h} [felt cold all over|stood very still]. {h.He} [hid
        the pieces under the soft rug|put the pieces in a big drawer|pushed the pieces behind the old couch].

        Soon {h.his} {elder} came in. "[Where is|Did you see] my {noun}?" <{h.his} {elder}>. "[I broke it|It was me|I
        was not careful, and it broke]." <{h}>.

        {h.His} {elder} gave {h.him} a hug. "[Thank you for telling|It was brave to tell] me the truth." <{h.his}
        {elder}>. {h} and {h.his} {elder} put the {noun} together with glue. {moral}""",
    )


def birthday(t: Teller) -> str:
    h, elder, f = t.hero(), t.elder(), t.friend()
    return t.tell(
        t.opening(
            h,
            "[One day|One morning|One Saturday|One Sunday]",
            f"""[woke up very early because it was {h.his} birthday|
        woke up with a smile because it was {h.his} birthday|jumped out of bed because {h.he} was [five|six|seven] that
        day]""",
            f"{h.His} best friend was {f.who}.",
        ),
        f"""
        But {h.his} {elder} only said, "[Good morning|I am very busy today|Eat your oats|It will be a warm day]." Then
        {h} went to see {f}, but {f} ran by without a word. "[Did they all forget my birthday?|Nobody remembers my day,|
        Maybe next year,]" {h} thought. {h.He} [went for a long walk|sat under an old tree, all alone|threw stones into
        the pond].

        [When the sun went down|In the evening|At last], {h} came home and opened the door. "[Surprise|Happy birthday]!"
        called {h.his} {elder} and {f}. {f} gave {h.him} a {GIFT}. {h} [laughed and hugged {h.his} {elder}|was so
        happy that {h.he} danced with {f}]. [It was the best birthday ever.|{h} knew that {h.he} was loved.|
        Good friends do not forget.|"This is better than any dream." <{h.he}>.]""",
    )


def kite(t: Teller) -> str:
    h, f = t.child(), t.friend(("bear", "mouse", "owl", "squirrel"))
    kite = t.pick(*COLORS) + " kite[|| with a long tail]"
    return t.tell(
        t.opening(
            h,
            "One windy [day|morning|afternoon]",
            f"[took a {kite} to the hill|went out to fly a {kite}]",
            f"[{h.He} loved windy days.|{h.He} liked to look up at the sky.]",
        ),
        f"""
        [The kite went up, up, up|The wind took the kite high into the air]. Then the kite flew into [an old|a very
        tall] apple tree. It was stuck! "[How can I get it down?|Come down, kite!]" <{h}>.

        Just then, {f.who} came by. {f} went up the tree and set the kite free. "[Thank you|You saved my kite]!" <{h}>.

        The next day, {h} and {f} flew the kite again, far from the trees. [It is good to ask for help.|It flew even
        higher than before.|{h} never forgot what {f} did.]""",
    )


PLOTS = (
    lost_toy,
    sharing,
    afraid_of_the_dark,
    hurt_animal,
    rainy_day,
    new_friend,
    planting,
    broken_thing,
    birthday,
    kite,
)


def sample_stories(num_stories: int, seed: int = 0) -> list[str]:
    """Return that many different stories, always the same ones for the same seed.

    A smaller number gives the beginning of what a larger number gives.
    """
    if num_stories < 1:
        raise ValueError(f"num_stories must be at least 1, not {num_stories}")
    rng = random.Random(seed)
    stories: list[str] = []
    seen = set()
    while len(stories) < num_stories:
        story = rng.choice(PLOTS)(Teller(rng))
        if story not in seen:
            seen.add(story)
            stories.append(story)
    return stories


def main() -> None:
    parser = argparse.ArgumentParser(description="Print short children's stories.")
    parser.add_argument("--num_stories", type=int, default=3, help="how many stories to print")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other stories")
    args = parser.parse_args()
    try:
        stories = sample_stories(args.num_stories, args.seed)
    except ValueError as error:
        parser.error(str(error))
    print(f"\n{END_OF_STORY}\n".join(stories))


if __name__ == "__main__":
    main()
