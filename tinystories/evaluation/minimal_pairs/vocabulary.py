"""The words that the rules (rules.py) know: plain words of children's stories, listed by hand.

A rule that looks words up finds fewer places than a parser would, but the places it finds are right.
"""


def word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


GIRL_NAMES = word_set("""
Abby Ada Alice Amara Amelia Amy Ann Anna Anne Annie Bella Beth Betty Carmen Chloe Clara Daisy Ella Ellie Emily Emma
Esther Eva Fatima Freya Grace Hana Hannah Ingrid Jane Jen Jenny Jill Julia Kate Katie Kim Leila Lila Lily Lisa Lucia
Lucy Lulu Luna Maggie Mary Maya Mei Mia Milly Molly Nina Nora Olga Olivia Polly Rosa Rose Ruby Ruth Sally Sara Sarah
Sofia Sophia Sophie Sue Susan Susie Tara Wendy Yuki Zara Zoe Zuri
""")
BOY_NAMES = word_set("""
Adam Ali Amir Andy Arjun Ben Benny Bill Billy Bob Bobby Carlos Charlie Dan Daniel Dave David Diego Eli Emil Eric Finn
Frank Fred Freddy George Hugo Ivan Jack Jacob Jake James Jamal Jim Jimmy Joe Joey John Johnny Kenji Kofi Leo Luca Mark
Mateo Matt Max Mike Nico Noah Omar Oscar Otto Pablo Paul Pete Peter Ravi Rob Ryan Sam Sammy Samir Steve Ted Theo Tim
Timmy Toby Tom Tommy Tony Yusuf
""")
NAMES = GIRL_NAMES | BOY_NAMES
FEMALE = GIRL_NAMES | word_set("""
Mom Mommy Mama Mum Mummy Grandma Granny Mrs Ms Miss mom mommy mama mum mummy grandma granny mother grandmother aunt
sister girl woman lady queen princess witch daughter wife waitress she her hers herself She Her
""")
MALE = BOY_NAMES | word_set("""
Dad Daddy Papa Grandpa Mr dad daddy papa grandpa father grandfather uncle brother boy man king prince wizard son
husband sir he him his himself He His
""")
# Others whom "they", "he" or "she" may mean. Where one of them is mentioned nearby, no pronoun is clearly wrong.
OTHERS = word_set("""
friend friends baby child children kid kids people family parents twins animal animals everyone everybody all both
person neighbor teacher doctor nurse farmer pet dog cat puppy kitten bird rabbit bunny bear fox wolf fish frog duck
mouse mice lion tiger elephant monkey squirrel owl horse pony cow pig sheep goat chicken hen turtle bee bug ant spider
butterfly dragon monster fairy ghost giant robot doll dolls teddy toy toys dogs cats birds rabbits bears fishes frogs
ducks bees bugs ants they them their They Their others other two three four five many some team group class crowd
boys girls men women brothers sisters cousins cousin stranger policeman fireman clown knight pirate captain snowman
""")

# The words of OTHERS that "he" or "she" cannot mean, or whose gender is clear from the names beside them.
SEVERAL = word_set("""
friend friends baby child children kid kids people family parents twins animals everyone everybody all both toys birds
they them their They Them Their Others others other two three four five many some boys girls sisters brothers dolls
""")

# Singular count nouns, without those that simple stories use bare ("at school", "for lunch").
COUNT_NOUNS = word_set("""
acorn airplane apron attic backpack bag ball balloon basket bat bear bee bell bench bicycle bike bird blanket boat book
bottle bow bowl box boy branch bridge broom brush bucket bug bus bush butterfly button cabin cage camera candle cap car
card cart castle cat cave chair chest child clock cloud coat coin cookie cottage couch cow cowboy crab crayon crown cup
cupboard desk dinosaur dog doll donkey door dragon drawer drawing dress duck elephant envelope fairy farmer feather
fence field flag flower forest fork fox friend frog garage garden gate ghost giant giraffe girl glove goat hammer hat
hedge helmet hen hill hole horse house hut insect island jacket jar jug kangaroo key king kite kitten knife knight
ladder lady lake lamp leaf letter lion lizard log map mask mat meadow mirror monkey monster mountain mouse nail necklace
nest net notebook nurse oven owl package painting parrot path pebble pen pencil penguin photo picture pig pillow pirate
plane plant plate pond pony pool porch pot prince princess puddle puppet puppy purse puzzle queen rabbit raccoon rainbow
ring river road robot rocket roof room rose sandcastle scarf seed shark shell ship shirt shoe shop shovel sign skirt
slide snail snake snowman sock sofa spider spoon squirrel stage star statue stick store stove string suitcase swing
sword table teacher teapot telescope tent ticket tiger tool tower toy train tree tunnel turtle umbrella unicorn vase
village wagon wall wallet wand well whale wheel whistle window witch wizard wolf woman worm zebra
""")
PLURAL_NOUNS = word_set("""
animals apples balls balloons bees berries birds blocks boats books boxes branches bugs butterflies cakes cars cats
children cookies cows dogs dolls ducks eggs fishes flowers foxes friends frogs fruits girls boys horses insects keys
kids kittens leaves letters lights monkeys mushrooms nuts pictures pigs plants puppies rabbits rocks shells shoes sticks
stones strawberries toys trees trucks vegetables waves
""")
ADJECTIVES = word_set("""
angry beautiful big black blue brave bright brown busy clean clever cold colorful cool cozy cute dark deep dirty dry
fancy fast fat friendly funny furry fuzzy gentle giant golden good gray great green happy hard heavy high hot huge
kind large lazy little lonely long loud lovely low magic magical mean muddy narrow neat new nice noisy old orange pink
playful pretty proud purple quick quiet red round sad scared scary shiny short shy silly silver sleepy slow small smart
smooth soft special sparkly strange strong sunny sweet tall thick thin tiny tired ugly warm wet white wide wild wise
wonderful wooden yellow young
""")
SUPERLATIVES = word_set("""
best worst biggest smallest tallest fastest strongest happiest prettiest nicest bravest funniest oldest longest
""")

# past: base form. Left out: verbs whose past equals the base form, or is also an adjective or noun in such stories.
VERBS = dict(
    pair.split(":")
    for pair in word_set("""
asked:ask ate:eat baked:bake became:become began:begin brought:bring built:build called:call came:come carried:carry
caught:catch chased:chase clapped:clap climbed:climb cooked:cook cried:cry danced:dance decided:decide drank:drink
drew:draw drove:drive explored:explore felt:feel flew:fly forgot:forget found:find gave:give got:get grabbed:grab
grew:grow heard:hear held:hold helped:help hid:hide hopped:hop hugged:hug jumped:jump kept:keep kicked:kick knew:know
laughed:laugh learned:learn listened:listen lived:live looked:look lost:lose loved:love made:make marched:march
opened:open picked:pick played:play pulled:pull pushed:push ran:run reached:reach rode:ride said:say sang:sing sat:sit
saw:see shared:share shook:shake shouted:shout showed:show slept:sleep smiled:smile started:start stayed:stay
stood:stand stopped:stop swam:swim talked:talk thanked:thank thought:think threw:throw told:tell took:take touched:touch
tried:try turned:turn visited:visit waited:wait walked:walk wanted:want watched:watch waved:wave went:go woke:wake
wore:wear worked:work wrote:write
""")
)
BASES = {base: past for past, base in VERBS.items()}
# After these words a bare verb is right: "wanted to run and play", "saw her run and play", "did not run".
BARE_VERB_AFTER = word_set("""
to can could will would shall should may might must did didn't don't do does let lets make makes made help helped helps
see saw sees hear heard watch watched felt feel couldn't wouldn't can't not never
""")

# Words that may follow a noun phrase. Before one of them, a noun is the head of its phrase, not part of a compound.
AFTER_NOUN = word_set("""
and but or was were is are had has in on at to with for from of by that who which when while so because near under
behind beside inside outside until as he she they it would could did looked said went felt came ran jumped flew saw
""")
PREPOSITIONS = word_set("in on at with for from of by under behind near into inside around over across")
DETERMINERS = word_set("the a an his her their my your its this that")
STOP_WORDS = word_set("""
about after again all also always and are away back because been before but came could day did felt for from gave get
give good had happy has have her here him his how into just know like liked little looked lots made make many more much
never not now off one out over ran really said saw see she some soon started that the their them then there they thing
things this time today took tried very wanted was went were what when where which while who will with would you your
big new nice old small sad long came come very even every everyone everything something together too until up down both
upon once lived named great other another after around good glad proud excited want wants feel ever only own their
""")
