"""Beginnings that every model continues, written for this project.

The metrics never count the beginning, since the model did not write it. Half of the beginnings stop inside a sentence,
half after one. More than half have no article, so that a model cannot copy one from its prompt.
"""

PROMPTS = {
    # cut inside a sentence, no article
    "hungry": "One morning, Nadia woke up hungry and went to find",
    "boots": "Omar had new boots. He wanted to show them to",
    "puddle": "After lunch, Petra and Joon ran outside because they saw",
    "letter": "My brother Felix opened his letter and read that",
    "clouds": "Every evening, Ines looked at clouds and said they were like",
    "hide": "Marta hid behind her bed while Ruben counted to",
    "soup": "Grandpa Otis made soup with carrots, peas and",
    "snow": "When snow came, Pavel put on his hat and",
    "secret": "Two friends, Yara and Cole, shared one big secret. They",
    "rabbit": "Hazel found her rabbit asleep under",
    "bus": "On his first day at school, Tariq sat next to",
    "night": "Late at night, Noor heard something tap on",
    # cut inside a sentence, with an article
    "lamp": "In a house by the sea, there was an old lamp that",
    "goat": "The goat did not like to share. When Simon came to the barn, it",
    "train": "A little train was slow. All the other trains",
    "bridge": "Wanda stood on the bridge and dropped",
    "owl": "High in an oak lived an owl who wanted to",
    "button": "Leo pressed the red button, and suddenly",
    "garden": "The flowers in the garden were sad because",
    "drum": "Bina got a drum for her birthday. She played it until",
    "fox": "A fox with no tail walked up to Kofi and asked",
    "cake": "Aunt Rosa put the cake on a table, but",
    # whole sentences, no article
    "storm": "Wind blew and rain fell. Lena was not afraid.",
    "kitten": "Ravi wanted his kitten to come down. It would not move.",
    "twins": "Ada and Ida were twins. They did everything together.",
    "shell": "Kenji found two pink shells. He gave one to his sister.",
    "bread": "Mama and Elif baked bread today. It smelled so good!",
    "lost": "Where was Bruno? His mother called and called.",
    "paint": "Greta painted her hands blue. Then she touched everything.",
    "race": '"I can run faster than you," said Dario. Mei only smiled.',
    "tooth": "Zoe had one loose tooth. She did not want to lose it.",
    "frog": '"Please let me go," said Frog. Anton opened his hands.',
    "moon": "Sami could not sleep. He looked up and waved at his friend, who lived on Earth no more.",
    "stars": "Once, long before people had lamps, stars talked to children.",
    "milk": "Vera spilled her milk. Nobody saw it but her dog.",
    "picnic": "It was sunny. Hugo, Pia and their dad packed sandwiches.",
    # whole sentences, with an article
    "turtle": "Once upon a time, there was a turtle named Sunny. Sunny was tired of being slow.",
    "key": "Emil saw a small key on the ground. He picked it up.",
    "bear": "A big bear sat in front of the shop. Everyone stopped.",
    "king": "There was once a king who could not laugh. His cook had an idea.",
    "ball": "The ball rolled into the river. Tessa began to cry.",
    "box": "One day, the mailman brought a box to Lulu. There were holes in it.",
    "tree": "An old tree stood on the hill. Ben asked if he could climb it.",
    "robot": "Mira had a robot. The robot never said thank you.",
}
