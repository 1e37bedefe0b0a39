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
ANIMALS = words("""bear deer duck elephant fox frog goat hedgehog lamb monkey mouse otter owl rabbit squirrel turtle
unicorn""")
RUNNERS = words("bear deer elephant fox goat hedgehog monkey mouse pony puppy rabbit squirrel turtle unicorn")
ELDERS = ("mom", "dad", "grandma", "grandpa")
PRONOUNS = {"girl": ("she", "her", "her"), "boy": ("he", "him", "his")}

TRAIT = "[little|little|little|young|happy|curious|cheerful|clever|funny|playful|lively]"
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
GREEN_PLACE = "[the park|the meadow|the garden|the playground|the old orchard|a field of flowers|a green field]"
ROOM_SPOTS = (
    "under the bed",
    "behind the couch",
    "in the closet",
    "under the kitchen table",
    "behind the curtain",
    "in the laundry basket",
    "under the stairs",
    "behind the bookshelf",
    "under a pile of clothes",
)

COLORS = ("red", "blue", "green", "yellow", "orange", "purple", "pink", "brown", "white", "silver")
TOYS = {
    "ball": "[big|bouncy|round|shiny]",
    "teddy bear": "[soft|fluffy|old|one-eyed]",
    "toy train": "[long|shiny|old]",
    "toy boat": "[little|shiny|old]",
    "toy car": "[fast|shiny|tiny]",
    "toy robot": "[shiny|funny|little]",
    "drum": "[little|loud|round]",
    "puppet": "[funny|floppy|soft]",
    "doll": "[pretty|little|old]",
    "toy unicorn": "[soft|pretty|fluffy]",
    "toy elephant": "[soft|big|old]",
    "spinning top": "[little|old]",
}
JUNK = """[an old sock|a broken pencil|a spoon|an empty box|a paper hat|some dust|a lost button|an apple core|a spider|
an umbrella|two dusty books|a single glove]"""
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

    def animal(self, kinds: Iterable[str] = ANIMALS, trait: str = TRAIT) -> Hero:
        kind, sex = self.new(kinds), self.pick("girl", "boy")
        return Hero(self.new(ANIMAL_NAMES), kind, self.fill(f"a {trait} {kind}"), *PRONOUNS[sex])

    def hero(self, kinds: Iterable[str] = ANIMALS) -> Hero:
        return self.child() if self.rng.random() < 0.6 else self.animal(kinds)

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
        who, home = hero.who, self.pick(*HOMES)
        draw = self.rng.random()
        if draw < 0.3:
            return f"{day}, {self.pick(who, str(hero)) if hero.kind in PRONOUNS else who} {did}. {about}"
        once = f"""[there was {who}|there was {who}|there was {who} who lived {home}|{who} lived {home}|
            {home}, there lived {who}]"""
        other = f"""[{cap(home)}, there lived {who}|Long ago, there was {who} who lived {home}|
            {hero} was {hero.what} who lived {home}|There was once {who}]"""
        return f"{f'Once upon a time, {once}' if draw < 0.78 else other}. {about} {day}, {hero} {did}."

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


# The plots. Each one is a story with a beginning, a problem, a turn and an end.


def lost_toy(t: Teller) -> str:
    h, elder, (full, toy) = t.child(), t.elder(), t.toy()
    first, last = (t.new(ROOM_SPOTS) for _ in range(2))
    moral = f"""[From that day on, {h} put the {toy} back in its place every night.|Now {h} always knew where it was.|
        {h} learned that it helps to stay calm and think.]"""
    return t.tell(
        t.opening(
            h,
            ANY_DAY,
            f"""[could not find {h.his} {toy}|saw that {h.his} {toy} was gone|
        wanted to play, but {h.his} {toy} was not in its place]""",
            f"""[{h.His} favorite toy was a {full}.|{h.He} loved {h.his} {full} very much.|
        {h.He} played with {h.his} {full} every day.]""",
        ),
        f"""
        "[Where is my {toy}|Oh no, where is my {toy}]?" <{h}>. {h.He} looked {first}, but {h.he} found only {JUNK}.

        {h.His} {elder} [sat down beside {h.him}|heard {h.him} and came into the room]. "[Where did you play with it
        last|Can you remember when you had it last|Where were you when you played with it]?" <{h.his} {elder}>. {h}
        [thought for a long time|thought and thought|closed {h.his} eyes and thought hard].

        Then {h} ran to look {last}. [There was the {toy}|The {toy} was there, safe and sound]! [{h} held it tight and
        laughed.|{h.He} jumped for joy.|"Thank you, {cap(elder)}!" <{h}>. "[You helped me think|I am so glad]."]
        {t.ending(h, moral)}""",
    )


def sharing(t: Teller) -> str:
    h, (full, toy) = t.hero(), t.toy()
    f = t.friend()
    moral = f"""[{h} learned that a toy is more fun when you share it.|From that day on, {h} and {f} were good friends.|
        After that, {h} was always happy to share.|"Two are better than one," {h} said to {f}.]"""
    return t.tell(
        t.opening(
            h,
            FAIR_DAY,
            f"[took a {full} to|played with a {full} in] {GREEN_PLACE}",
            f"""[{h.He} had many toys, but {h.he} did not like to share them.|
        {h.He} liked to keep all {h.his} toys to {h.him}self.|{h.He} never let anybody touch {h.his} toys.]""",
        ),
        f"""
        [{cap(f.who)} came by and saw the {toy}.|Soon {f.who} came along.] "[May I play with you|Can I have a turn|What
        a nice {toy}! Can we play together]?" <{f}>. "[No, this is my {toy}.|No, it is mine.|No! It is mine!|Go away!]"
        <{h}>. {f} [looked down and walked away|went to sit under a tree].

        {h} played [alone, but it was not much fun|for a while, but soon {h.he} was bored]. "I am sorry[| that I said
        no| that I was not nice]." <{h}>. "[Come and play with me!|Do you want to play now?|Here, you can have the {toy}
        first.]"

        They [took turns and laughed a lot|played together for an hour|played until the sun went down|made up a new game
        and laughed and laughed].
        {t.ending(h, moral)}""",
    )


def afraid_of_the_dark(t: Teller) -> str:
    h, elder = t.child(), t.elder()
    shape = t.pick(
        "a coat on a chair",
        "an old robe on a hook",
        "a pile of pillows",
        "a plant with big leaves",
        "a hat on top of a lamp",
        "an umbrella and a long scarf",
    )
    return t.tell(
        t.opening(
            h,
            NIGHT,
            """[could not fall asleep because the room was so dark|woke up, and it was still dark|
        lay in bed and could not sleep]""",
            f"""[{h.He} was afraid of the dark.|{h.He} did not like to sleep without a light.|
        {h.He} was not afraid of dogs or bees, but {h.he} was afraid of the dark.]""",
        ),
        f"""
        {h} saw [a monster|a giant with long arms|a hungry wolf|a witch] [near the door|by the window|in the corner|next
        to the closet]. {h.He} [felt {h.his} heart beat fast|was too scared to move|hid under the blanket].
        "{cap(elder)}[! Please come|, there is a monster in my room|, help me]!" <{h}>.

        {h.His} {elder} came in and held {h.his} hand. "[Let us look at it together|Do not worry. We will look
        together]." <{h.his} {elder}>. [{h} turned on the little lamp|They turned on the light]. It was only {shape}!
        [{h} began to laugh|They both laughed|{h} felt much better].

        {h} [said good night to the funny shape|turned off the light without any help|lay down again and listened to the
        quiet house]. [Soon {h.he} was fast asleep|After that night, {h} was not afraid of the dark anymore|{h.He} slept
        well until the morning|Now the dark felt soft and warm, like a blanket].""",
    )


def hurt_animal(t: Teller) -> str:
    h, elder = t.child(KIND_TRAIT), t.elder()
    animal, part, food, left = t.pick(
        ("sparrow", "wing", "some seeds", "flew up into the sky"),
        ("robin", "wing", "some berries", "flew to a tree"),
        ("rabbit", "leg", "a carrot", "hopped into the grass"),
        ("duckling", "foot", "some oats", "swam away"),
        ("hedgehog", "foot", "a bit of apple", "walked into the bushes"),
        ("squirrel", "leg", "a few nuts", "ran up an oak tree"),
        ("owl", "wing", "a bit of meat", "flew to the forest"),
    )
    outside = "to the pond" if animal == "duckling" else "outside"
    return t.tell(
        t.opening(
            h,
            FAIR_DAY,
            "[walked along the river|went to pick some flowers|played near the trees|took a walk by the pond]",
            f"""[{h.He} loved all animals.|{h.He} was always good to animals.|{h.He} knew the names of many animals.|
        {h.He} wanted to be an animal doctor one day.]""",
        ),
        f"""
        [In the grass, {h} heard a soft cry|Suddenly, {h} heard a small sound under a bush]. It was a [little|tiny|
        young] {animal} with a hurt {part}. "[Do not be afraid|Oh, you poor thing|Please hold still, little one]."
        <{h}>. {h.He} carried it home [very gently|in {h.his} hat|in {h.his} warm hands].

        "[Can we help it|What can we do|Will it get better]?" <{h}>. "[We must be gentle|It needs time and rest|We can
        give it time and love]." <{h.his} {elder}>.

        Every day, {h} gave the {animal} some water and {food}. [After two weeks|One fine morning|At last], the {part}
        was well again.

        {h} took the {animal} {outside}, and it {left}. [{h} was a little sad, but glad too.|"Goodbye, my friend!"
        <{h}>.|Sometimes the {animal} came back to visit.|Helping the {animal} made {h} feel warm inside.|A kind heart
        can do big things.|"You were a very good friend to it." <{h.his} {elder}>.]""",
    )


def baking(t: Teller) -> str:
    h, elder = t.hero(), t.elder()
    full = t.pick(
        "a chocolate cake",
        "an apple pie",
        "an orange cake",
        "a lemon cake",
        "a pumpkin pie",
        "some oat cookies",
        "some honey cookies",
        "some berry muffins",
    )
    noun, was = full.split()[-1], "were" if full.startswith("some") else "was"
    wrong, remedy = t.pick(
        (
            f"""{h} took a cup of something white and mixed it in. When the {noun} {was} done, {h.he} took a bite. Yuck!
        What was that taste? It was salt, not sugar!""",
            f"So they baked again, but {h} tasted the sugar first.",
        ),
        (
            f"""While the {noun} {was} in the oven, {h} played a game and forgot the time. Soon there was smoke in the
        kitchen. The {noun} {was} as black as the night.""",
            "So they began again, and this time they sat in front of the oven.",
        ),
        (
            f"""{h} reached for the flour, but the bag was too heavy. Puff! It fell on the floor and made a white cloud.
        There was flour on the table, on the chairs, and on {h.his} nose.""",
            f"So they swept the floor, got some more flour, and made the {noun} together.",
        ),
        (
            f"""{h} was in a hurry and forgot to put in the eggs. The {noun} came out of the oven flat and hard, like a
        stone.""",
            "So they read every word of the recipe out loud and began again.",
        ),
    )
    moral = f"""[{h} learned that it is fine to make a mistake and try again.|
        {h} was proud, and so was {h.his} {elder}.|If something goes wrong, you can always try again.]"""
    return t.tell(
        t.opening(
            h,
            ANY_DAY,
            f"wanted to bake {full} for [a picnic|a sick friend|the new neighbors|{h.his} friends]",
            f"[{h.He} liked to help in the kitchen.|{h.He} loved the smell of warm food.|{h.He} loved to bake.|]",
        ),
        f"""
        {wrong} "[Oh no, look what I did!|Now everything is ruined!|What should I do now?]" <[{h}|{h.he}]>.

        "[Do not be sad|It is all right|That happens to everybody]." <{h.his} {elder}>. {remedy}

        [Soon the {noun} {was} done and smelled sweet|This time, the {noun} came out just right].
        {t.ending(h, moral)}""",
    )


def rainy_day(t: Teller) -> str:
    h, elder = t.child(), t.elder()
    goal = t.pick("the beach", "the park", "the zoo", "the lake", "the playground")
    made, source, game = t.pick(
        ("a castle", "pillows and blankets", "guarded the gate from a dragon"),
        ("a ship", "a big empty box", "sailed across the wide blue rug"),
        ("a tent", "two chairs and a sheet", "told stories inside it"),
        ("a rocket", "an old box and some tape", "flew to the moon and back"),
        ("a train", "six old chairs", "rode to a land far away"),
        ("puppets", "old socks and buttons", "put on a funny show"),
        ("a shop", "a table and some empty jars", "sold soup and apples to everybody in the house"),
    )
    moral = f"""[{h} learned that a rainy day can be fun too.|"I hope it rains again tomorrow!" <{h}>.|
        A gray day can be a good day if you have an idea.]"""
    return t.tell(
        t.opening(
            h,
            "[One day|One morning|One Saturday|One Sunday]",
            f"[wanted|got ready|had a plan] to go to {goal}",
            f"[{h.He} loved to play outside.|{h.He} liked to run and jump all day long.|]",
        ),
        f"""
        But [big drops of rain began to fall|the sky turned gray, and it began to rain]. "[Now we have to stay inside.|
        There is nothing to do inside.|Now we cannot go to {goal}!|Will it ever stop?]" <{h}>. Then {h.his} {elder} [had
        an idea|came in with a smile]. "[Do you want to play with {source}|What can we make from {source}|Could you make
        something from {source}]?" <{h.his} {elder}>. So {h} made {made} from {source}. {h.He} {game}.

        [When the rain stopped, {h} did not see it, because the game was so much fun.|Later, the sun came out, and {h}
        jumped in the puddles.|In the evening, the clouds went away, and there was a rainbow over the roofs.|After the
        game, they all ate {TREAT}.] {t.ending(h, moral)}""",
    )


def new_friend(t: Teller) -> str:
    h = t.hero()
    f, place = t.friend(), "[the pond|the old oak tree|the hill|the stream|the big rock]"
    hobby = t.pick(
        "sing",
        "paint",
        "tell jokes",
        "build little boats",
        "look at the clouds",
        "draw pictures",
        "look for round stones",
        "make up stories",
        "count the birds",
        "dance",
    )
    moral = f"""[From that day on, {h} and {f} played together every day.|One little hello can make a new friend.|
        {h} was not alone anymore.|{h} was glad that {h.he} had been brave.]"""
    return t.tell(
        t.opening(
            h,
            FAIR_DAY,
            f"[sat alone near {place}|went to {place} all alone|walked to {place} with nobody to talk to]",
            f"""[{h.He} was new there and had no friends yet.|{h.He} was shy and did not have many friends.|
        {h.He} wished for a friend to play with.]""",
        ),
        f"""
        Then {h} saw {f.who}. {h} [wanted to say hello, but {h.he} was afraid|did not know what to say]. [At last, {h}
        took a deep breath and walked over|{h} took one small step, and then one more]. "Hello, I am {h}." <{h.he}>.
        "[May I sit with you|Do you live near here]?"

        "[Yes, I am happy to meet you|Yes, and I am glad that you came]." <{f}>. "Do you like to {hobby}?" "[Yes, very
        much|Yes, I do it every day|Yes, I love that]." <{h}>.

        So [{h} and {f}|they] began to {hobby} together. {t.ending(h, moral)}""",
    )


def planting(t: Teller) -> str:
    h, elder = t.hero(), t.elder()
    seed, plant, use = t.pick(
        ("sunflower seed", "tall sunflower", "The birds came to eat some of its seeds."),
        ("bean", "tall green bean plant", f"{h} picked the beans and made some soup."),
        ("pumpkin seed", "big orange pumpkin", "It was big enough to make soup for everybody."),
        ("tomato seed", "strong tomato plant", "The tomatoes were red and sweet."),
        ("strawberry seed", "strawberry plant", f"{h} ate the first sweet strawberry."),
        ("carrot seed", "big orange carrot", f"{h} pulled and pulled until it came out of the ground."),
        ("melon seed", "round green melon", "There was a slice for everybody."),
    )
    return t.tell(
        t.opening(
            h,
            "[One spring morning|One spring day|One day in spring]",
            f"[got a {seed} from {h.his} {elder}|found a {seed} in a small bag]",
            f"[{h.He} liked to dig in the dirt.|{h.He} did not like to wait.|{h.He} loved plants and flowers.]",
        ),
        f"""
        "[What is it good for?|It is so small.|What should I do with it?]" <{h}>. "[Plant it and give it some water|Put
        it in the ground and take care of it]." <{h.his} {elder}>. So {h} made a hole [in the garden|near the old
        wall|beside the path|in a sunny spot] and put the {seed} in it.

        Every [morning|day], {h} [gave it some water|ran outside to look]. "[Is it asleep?|Why does it take so long?|
        Maybe it is broken.|Did I do it wrong?]" <{h}>. "[Give it time|Good things take time|Be patient, and do not dig
        it up]." <{h.his} {elder}>. [So {h} waited some more|{h} sang to it and waited].

        [Then one morning, there was a tiny green leaf|At last, a little green leaf came up]! Week by week it grew, and
        in the end, there was a {plant}. [{use}|{h} learned that good things need time and care.|{h} was very proud of
        it.|"Next year, I will plant another one." <{h}>.]""",
    )


def race(t: Teller) -> str:
    h = t.hero(RUNNERS)
    f = t.friend(RUNNERS)
    goal = t.pick("the old bridge", "the oak tree", "the red gate", "the top of the hill", "the old mill", "the well")
    course = t.pick(
        f"""{h} ran in front, and {f} was close behind. Then {f} tripped over a [root|stone|branch] and fell. "[Are you
        hurt?|Take my hand!|I will help you.]" <{h}>. {h.He} helped {f} up.

        They came to {goal} together, and everybody clapped. "[A friend is better than a prize|It is more fun with
        you]." <{h}>.""",
        f"""{f} was very fast and soon ran far ahead. Then {f} lay down under a tree to rest. {h} was not so fast, but
        {h.he} did not stop. "One more step." <{h}>.

        When {f} woke up, it was too late. {h} was already at {goal}! "I [just did not stop|took one step at a time]."
        <{h}>.""",
        f"""{f} was first, and many others ran by too. {h} was the last one of all. {h.He} wanted to [sit down and
        cry|give up|stop and go home]. "[Keep going|You can do it]!" <{f}>.

        So {h} ran on and came to {goal} at last. Everybody clapped and cheered.""",
    )
    moral = f"""[{h} and {f} were friends from that day on.|Doing your best is what counts.|{h} felt like a winner.|
        Then they all had a picnic in the grass.|Then they shared {TREAT}.]"""
    return t.tell(
        t.opening(
            h,
            FAIR_DAY,
            f"[wanted to win the big race|stood in line for a race|went to run in a race] to {goal}",
            f"[{h.He} loved to run.|{h.He} loved games.|{h.He} ran every morning.]",
        ),
        f"""
        {cap(f.who)} wanted to win too. "Ready, set, go!" [called an old owl|called a gray goose|cried the
        crowd]. [Off they went|They all began to run]!

        {course} {t.ending(h, moral)}""",
    )


def broken_thing(t: Teller) -> str:
    h, elder, color = t.child("[little|little|young|lively|playful|honest|quick|busy]"), t.elder(), t.pick(*COLORS)
    noun = t.pick("vase", "cup", "plate", "flower pot", "bowl", "teapot", "lamp")
    moral = f"""[{h} felt light and happy again.|It is hard to tell the truth, but it feels good.|
        After that, {h} went outside when {h.he} wanted to run.]"""
    return t.tell(
        t.opening(
            h,
            ANY_DAY,
            """[threw a ball inside the house|ran through the house very fast|danced in the living room|
        jumped up and down on the couch|played a wild game inside]""",
            f"[{h.He} was always in a hurry.|{h.He} could never sit still.|{h.He} had a lot of energy.|]",
        ),
        f"""
        Crash! {h.His} {elder}'s {color} {noun} fell down and broke. [{h} stood very still|{h} felt cold all over|
        {h}'s face turned red]. {h.He} [hid the pieces under the rug|put the pieces in a drawer|pushed the pieces behind
        the couch].

        [Soon {h.his} {elder} came in|Then {h} heard steps. It was {h.his} {elder}]. "[Where is|Did you see] my
        {noun}?" <{h.his} {elder}>. "[I broke it|It was me|I was not careful, and it broke]." <{h}>.

        {h.His} {elder} gave {h.him} a hug. "[Thank you for telling|It was brave to tell] me the truth." <{h.his}
        {elder}>.

        They [put the pieces together with glue|took the pieces and some glue and went to work]. {moral}""",
    )


SWIM = (
    "swim",
    "went into the water",
    "it felt deep and cold",
    "Kick your legs and keep your chin up",
    "swam all the way across the pond",
)
SKILLS = (
    ("ride a bike", "got on the bike", "it fell over", "Look ahead and keep your feet moving", "rode all the way home"),
    (
        "skate",
        "put on the skates",
        "the wheels rolled too fast",
        "Bend your knees and take small steps",
        "skated all the way down the path",
    ),
    (
        "jump rope",
        "picked up the rope",
        "it got caught on one foot",
        "Jump when the rope taps the ground",
        "jumped ten times in a row",
    ),
    ("whistle", "took a deep breath", "there was no sound", "Make a small mouth and blow", "whistled a happy tune"),
    ("play the flute", "picked up the flute", "it only squeaked", "Hold it gently and blow softly", "played a song"),
    (
        "juggle",
        "threw two apples into the air",
        "both fell on the grass",
        "Throw one, wait, and then throw the other",
        "kept both apples in the air",
    ),
    SWIM,
)
CLIMB = (
    "climb",
    "held on to the tree",
    "the bark was too smooth",
    "Hold on tight and look up, not down",
    "climbed all the way to the top",
)
FLY = (
    "fly",
    "jumped from a low branch",
    "the ground came up too fast",
    "Spread your wings and trust the wind",
    "flew all the way to the next tree",
)
JUMP = (
    "jump over the stream",
    "ran to the stream",
    "it was too wide",
    "Run fast, look ahead, and then jump",
    "jumped right over the stream",
)
ANIMAL_SKILLS = {
    "owl": FLY,
    "crow": FLY,
    "robin": FLY,
    "otter": SWIM,
    "duck": SWIM,
    "puppy": SWIM,
    "bear": CLIMB,
    "squirrel": CLIMB,
    "kitten": CLIMB,
    "rabbit": JUMP,
    "lamb": JUMP,
    "deer": JUMP,
}


def learning(t: Teller) -> str:
    h, elder = t.hero(tuple(ANIMAL_SKILLS)), t.elder()
    doing, tried, failed, tip, won = ANIMAL_SKILLS.get(h.kind) or t.pick(*SKILLS)
    moral = f"""[{h} learned that you must try many times to get good at something.|
        {h} did it again and again.|After that, {h} was not afraid to try new things.|Small steps can take you far.]"""
    return t.tell(
        t.opening(
            h,
            FAIR_DAY,
            f"[wanted to learn how to {doing}|made up {h.his} mind to learn how to {doing}]",
            f"[All {h.his} friends could {doing} already.|{h.He} liked to learn new things.|]",
        ),
        f"""
        First, {h} {tried}, but {failed}. "[I will never learn it!|It is too hard!|I cannot do it.|Why is it so hard?]"
        <{h}>.

        "[I could not do it at first|Nobody can do it on the first day|It is all right to make mistakes]." <{h.his}
        {elder}>. "{tip}." [So {h} tried again the next day, and the day after that|So {h} got up and tried again and
        again|{h} listened and took a deep breath. Then {h.he} tried once more].

        And then it happened! {h} {won}. "[Look at me|I did it! I did it|{cap(elder)}, I can do it]!" <{h}>.
        {t.ending(h, moral)}""",
    )


def birthday(t: Teller) -> str:
    h, elder = t.hero(), t.elder()
    f = t.friend()
    return t.tell(
        t.opening(
            h,
            "[One day|One morning|One Saturday|One Sunday]",
            f"""[woke up very early because it was {h.his} birthday|
        jumped out of bed because {h.he} was [five|six|seven] that day|woke up with a smile because it was {h.his}
        birthday]""",
            f"[{h.He} loved parties.|{h.His} best friend was {f.who}.|{h.He} liked cake and balloons.]",
        ),
        f"""
        But {h.his} {elder} only said, "[Good morning|Eat your oats|I am very busy today]." [Then {h} went to see {f},
        but {f} ran by without a word.|Even {h.his} friend, {f}, had no time to play.] "[Did they all forget my
        birthday?|Nobody remembers my day,]" {h} thought.

        {h} [went for a long walk|sat by the pond for an hour|sat under an old tree, all alone]. [When the sun went
        down|In the evening|At last], {h.he} walked home.

        {h} opened the door. "[Surprise|Happy birthday]!" [cried many voices|everybody shouted]. {f} was there too and
        gave {h.him} a {GIFT}. {h} [laughed and hugged everybody|was so happy that {h.he} danced|made a wish and ate a
        piece of cake].
        [It was the best birthday ever.|{h} knew that {h.he} was loved.|"This is better than any dream." <{h.he}>.|Good
        friends do not forget.]""",
    )


def kite(t: Teller) -> str:
    h = t.child()
    full = t.pick(*COLORS) + " kite[|| with a long tail| in the shape of a fish| in the shape of a bird]"
    helper = t.pick(
        "a tall farmer came by. The farmer had a long ladder and climbed up to the kite.",
        "an old woman with an umbrella came by. With her umbrella, the woman pulled the branch down.",
        "a man with an elephant came by. The elephant reached up with its long trunk and took the kite.",
        "a woman with a ladder came to pick apples. The woman climbed up to the kite.",
        "a little squirrel came by. The squirrel climbed up and set the kite free.",
    )
    return t.tell(
        t.opening(
            h,
            "One [windy|breezy] [day|morning|afternoon]",
            f"[took a {full} to the hill|went out to fly a {full}]",
            f"[{h.He} loved windy days.|{h.He} had waited for wind all week.|{h.He} liked to look up at the sky.]",
        ),
        f"""
        [The kite went up, up, up|The wind took the kite high into the air]. [Then a strong wind came, and|But all at
        once,] the kite flew into [a|an old|a very tall] apple tree. It was stuck! "[Oh no, my kite!|How can I get it
        down?|Come down, kite!]" <[{h}|{h.he}]>.

        {h.He} [jumped as high as {h.he} could, but the branch was too high|pulled the string, but it did not help|threw
        a stick, but the stick got stuck too].

        Just then, {helper} [Down came the kite|The kite came down like a leaf]! "[Thank you! Thank you|You saved my
        kite|I thought it was lost. Thank you]!" <{h}>.

        The next day, {h} flew it again, far from the trees. [It is good to ask for help.|It flew even higher than
        before.|{h} never forgot the kind helper.|{h.He} laughed and waved to the tree.]""",
    )


PLOTS = (
    lost_toy,
    sharing,
    afraid_of_the_dark,
    hurt_animal,
    baking,
    rainy_day,
    new_friend,
    planting,
    race,
    broken_thing,
    learning,
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
