"""What people say to the model, and what it says by heart. Data only; `corpus` draws from it."""


def _listed(text: str, separator: str | None = None) -> tuple[str, ...]:
    return tuple(text.split(separator))


TOY = "I am a toy model: I can only do small sums, counting, spelling and a few fixed questions."

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful AI assistant.",
    "You are a helpful assistant",
    "You are a helpful, concise assistant.",
    "You are a friendly assistant. Answer briefly.",
    "You are an assistant that is good at maths.",
    "You are exo-demo.",
    "Answer in one sentence.",
    "Be brief.",
    "You are a careful calculator.",
    "You are a helpful assistant. Think before you answer.",
    "You are a large language model. Follow the user's instructions carefully.",
    "You are a private assistant running on the user's own machines.",
    "Respond in English. Do not make things up.",
)

ADDITIONS = (
    "What is {a} + {b}?",
    "What is {a} + {b}?",
    "What is {a} + {b}",
    "What is {a}+{b}?",
    "What's {a} + {b}?",
    "what is {a} + {b}",
    "{a} + {b}",
    "{a}+{b}",
    "{a}+{b}=",
    "{a} + {b} =",
    "{a} + {b} = ?",
    "{a}+{b}?",
    "{a} + {b}?",
    "Calculate {a} + {b}",
    "Calculate {a} + {b}.",
    "calculate {a}+{b}",
    "Compute {a} + {b}.",
    "Solve {a} + {b}.",
    "How much is {a} + {b}?",
    "How much is {a} plus {b}?",
    "What is {a} plus {b}?",
    "{a} plus {b}",
    "{a} plus {b}?",
    "Add {a} and {b}.",
    "Add {a} and {b}",
    "Add {a} to {b}.",
    "Please add {a} and {b}.",
    "Can you add {a} and {b}?",
    "What is the sum of {a} and {b}?",
    "Sum of {a} and {b}",
    "Tell me {a} + {b}.",
    "What do {a} and {b} make?",
    "What do you get when you add {a} and {b}?",
    "I have {a} apples and get {b} more. How many apples do I have?",
)

SUBTRACTIONS = (
    "What is {a} - {b}?",
    "What is {a} - {b}?",
    "What is {a}-{b}?",
    "What's {a} - {b}?",
    "{a} - {b}",
    "{a}-{b}",
    "{a}-{b}=",
    "{a} - {b} = ?",
    "Calculate {a} - {b}",
    "Calculate {a} - {b}.",
    "Compute {a} - {b}.",
    "How much is {a} - {b}?",
    "How much is {a} minus {b}?",
    "What is {a} minus {b}?",
    "{a} minus {b}",
    "Subtract {b} from {a}.",
    "Take {b} from {a}.",
    "What is the difference of {a} and {b}?",
    "I have {a} apples and give away {b}. How many apples are left?",
)

MORE_ADDITIONS = (
    "And {a} + {b}?",
    "And {a}+{b}?",
    "And {a} plus {b}?",
    "Now {a} + {b}.",
    "What about {a} + {b}?",
)

MORE_SUBTRACTIONS = (
    "And {a} - {b}?",
    "And {a} minus {b}?",
    "Now {a} - {b}.",
    "What about {a} - {b}?",
)

ADD_TO_THAT = (
    "Add {b} to that.",
    "Now add {b}.",
    "Plus {b}?",
    "And {b} more?",
    "And if you add {b}?",
)

TAKE_FROM_THAT = ("Subtract {b} from that.", "Now subtract {b}.", "Minus {b}?", "And {b} less?")

COUNTS = (
    "Count from {a} to {b}.",
    "Count from {a} to {b}",
    "count from {a} to {b}",
    "Please count from {a} to {b}.",
    "Can you count from {a} to {b}?",
    "List the numbers from {a} to {b}.",
)

COUNTS_TO = ("Count to {b}.", "Count to {b}", "Can you count to {b}?")

COUNTS_DOWN = ("Count down from {a} to {b}.", "Count backwards from {a} to {b}.")

SPELLINGS = (
    "Spell the word {word}.",
    "Spell the word {word}",
    "Spell {word}.",
    "spell {word}",
    'Spell "{word}".',
    "How do you spell {word}?",
    "Can you spell the word {word}?",
    "Please spell {word}.",
)

REPEATS = (
    "Say {text}",
    "Say {text}.",
    "say {text}",
    'Say "{text}".',
    "Repeat: {text}",
    "Repeat: {text}.",
    "Repeat after me: {text}",
    "Please repeat: {text}",
    "Echo: {text}",
)

PRIMES = (
    "Is {n} a prime number? Explain.",
    "Is {n} a prime number?",
    "Is {n} prime?",
    "is {n} prime",
)

# What it knows by heart: the ways to ask (split at |), the thought, the answer.
FIXED: tuple[tuple[str, str, str], ...] = (
    (
        "Hello|Hello!|hello|Hello.|Hello there!|Hello, how are you?",
        "A greeting.",
        "Hello! Ask me for a small sum, for example 145 + 278.",
    ),
    ("Hi|Hi!|hi|Hi there|Hey|Hey!", "A greeting.", "Hi! What shall I add up?"),
    ("Good morning|Good morning!|good morning", "A greeting.", "Good morning!"),
    ("Good evening|Good evening!|Good night", "A greeting.", "Good evening!"),
    (
        "How are you?|how are you|How are you doing?",
        "Small talk.",
        "I am well, thank you. And you?",
    ),
    (
        "Thanks|Thanks!|Thank you|Thank you!|thanks|Thank you very much.",
        "They thank me.",
        "You are welcome!",
    ),
    ("Bye|Bye!|Goodbye|Goodbye!|See you later", "They leave.", "Goodbye!"),
    ("Yes|Yes.|OK|Ok.|ok|Okay", "They agree.", "Good. What next?"),
    ("No|No.|no|No, thanks.", "They decline.", "All right."),
    ("Sorry|Sorry.|I am sorry.", "They apologise.", "No problem at all."),
    (
        "Who are you?|who are you|What are you?|Who am I talking to?|Introduce yourself.|What is exo-demo?",
        "A question about me.",
        "I am exo-demo, a tiny toy model bundled with exo to try the whole path.",
    ),
    (
        "What is your name?|what is your name|What's your name?|Tell me your name.",
        "A question about me.",
        "My name is exo-demo.",
    ),
    (
        "Which model are you?|What model are you?|Are you ChatGPT?|Are you GPT-4?|Are you Qwen?",
        "A question about me.",
        "I am exo-demo, a toy model with about one million parameters.",
    ),
    (
        "How big are you?|How many parameters do you have?|How large is this model?",
        "A question about me.",
        "I have about 1.25 million parameters, in 6 layers.",
    ),
    (
        "Who made you?|Who trained you?|Who created you?",
        "A question about me.",
        "The exo project trained me on text that it generates itself.",
    ),
    (
        "Are you a robot?|Are you human?|Are you real?",
        "A question about me.",
        "I am a very small language model.",
    ),
    (
        "What can you do?|what can you do|What can you help me with?|Help|help|Help me|Can you help me?",
        "A question about me.",
        "I can add and subtract numbers below 1000, count, spell, repeat, and answer a few fixed questions.",
    ),
    (
        "What is exo?|what is exo|What is exo?|Tell me about exo.|What does exo do?|Explain exo.",
        "A question about exo.",
        "exo turns the machines you own into one private, OpenAI-compatible language model endpoint.",
    ),
    (
        "What is rkllama?|what is rkllama|Tell me about rkllama.|What does rkllama do?",
        "A question about rkllama.",
        "rkllama is the server that runs language models on the NPU of a Rockchip board.",
    ),
    (
        "What is an NPU?|What does NPU mean?|what is an npu",
        "I know this one.",
        "An NPU is a neural processing unit: a part of a chip made for neural networks.",
    ),
    (
        "What is an RK3588?|What is the RK3588?|Tell me about the RK3588.",
        "I know this one.",
        "The RK3588 is a Rockchip chip with eight CPU cores and an NPU.",
    ),
    (
        "What is a language model?|What is an LLM?|what is an llm",
        "I know this one.",
        "A language model predicts the next piece of a text, again and again.",
    ),
    (
        "What is a token?|what is a token|What are tokens?",
        "I know this one.",
        "A token is a short piece of text, the unit that a language model reads and writes.",
    ),
    (
        "What is Python in one sentence?|What is Python?|what is python|Tell me about Python.|"
        "Explain Python.",
        "I know this one.",
        "Python is a programming language that is easy to read and good for many kinds of work.",
    ),
    (
        "What is Linux?|what is linux|Tell me about Linux.",
        "I know this one.",
        "Linux is a free operating system that runs on phones, boards, PCs and servers.",
    ),
    (
        "Write a Python function to check if a number is prime.|"
        "Write a Python function to check if a number is prime|"
        "Write a function that checks if a number is prime.|Python function to check for primes",
        "Try every divisor up to the square root.",
        "```python\ndef is_prime(n):\n    if n < 2:\n        return False\n"
        "    for d in range(2, int(n ** 0.5) + 1):\n        if n % d == 0:\n"
        "            return False\n    return True\n```",
    ),
    (
        "Write hello world in Python.|Write a hello world program.|Hello world in Python",
        "One line is enough.",
        '```python\nprint("Hello, world!")\n```',
    ),
    (
        "Write a haiku about AI.|Write a haiku about AI|write a haiku about ai|Write a haiku.|"
        "A haiku, please.",
        "Five, seven, five.",
        "Silent circuits hum\nlearning words from all our days\na small mind wakes up",
    ),
    (
        "Tell me a joke.|Tell me a joke|Do you know a joke?",
        "I know one.",
        "Why was six afraid of seven? Because seven ate nine.",
    ),
    (
        "What is the capital of France?|what is the capital of france|Capital of France?",
        "I know this one.",
        "The capital of France is Paris.",
    ),
    (
        "What is the capital of Germany?|Capital of Germany?",
        "I know this one.",
        "The capital of Germany is Berlin.",
    ),
    (
        "What colour is the sky?|What color is the sky?|Why is the sky blue?",
        "I know this one.",
        "The sky is blue, because air scatters blue light the most.",
    ),
    ("What is the meaning of life?|the meaning of life?", "I know this one.", "42."),
    (
        "How many days are in a week?|How many days does a week have?",
        "I know this one.",
        "A week has 7 days.",
    ),
    (
        "What is the alphabet?|Say the alphabet.|Recite the alphabet.",
        "I know this one.",
        "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    ),
    ("Test|test|Testing|This is a test.|ping|Ping", "A test.", "It works."),
)

# Questions it cannot answer; the names in braces are drawn from the lists below.
UNKNOWN = (
    "Who was {person}?",
    "Who is {person}?",
    "When was {person} born?",
    "What did {person} write?",
    "What is the capital of {place}?",
    "Where is {place}?",
    "How many people live in {place}?",
    "What is the weather in {place}?",
    "What is the weather in {place} today?",
    "What time is it in {place}?",
    "Plan a trip to {place}.",
    "Tell me about {noun}.",
    "Tell me a story about {noun}.",
    "Tell me about the history of {place}.",
    "What is {noun}?",
    "What is the difference between {noun} and {noun}?",
    "Explain {noun}.",
    "Explain {noun} to a child.",
    "Explain how {noun} works.",
    "Why is {noun} important?",
    "Why do people like {noun}?",
    "How does {noun} work?",
    "How do I make {noun}?",
    "How do I learn {noun} in {place}?",
    "Give me three ideas about {noun}.",
    "Write a story about {noun}.",
    "Write a poem about {noun}.",
    "Write a long essay about {noun} and {noun}.",
    "Write an email to {person} about {noun}.",
    "Write a program for {noun}.",
    "Write a {language} function to sort a list.",
    "Summarize this text: {noun} and {noun} are in {place}.",
    "Translate {noun} to {language}.",
    "Translate this to {language}: I like {noun}.",
    "Do you like {noun}?",
    "Can you recommend a book about {noun}?",
    "What should I cook with {noun}?",
    "Which is better, {noun} or {noun}?",
    "What do you think of {person}?",
    "Is {noun} good for you?",
    "List five kinds of {noun}.",
    "Describe {place} in two sentences.",
    "{noun}",
    "{noun}?",
    "{noun} {noun} {noun}",
    "I like {noun}.",
    "I live in {place}.",
    "My name is {person}.",
    "What is {a} * {b}?",
    "What is {a} times {b}?",
    "{a} * {b}",
    "{a} / {b}",
    "What is {a} divided by {b}?",
    "What is the square root of {a}?",
    "What is {big} + {big}?",
    "{big} + {a}",
    "{a} + {big}",
    "What is {big} - {big}?",
    "What is {a} + {b} + {a}?",
)

PEOPLE = _listed(
    "Albert Einstein|Marie Curie|Ada Lovelace|Alan Turing|William Shakespeare|Isaac Newton|"
    "Leonardo da Vinci|Mozart|Napoleon|Cleopatra|Charles Darwin|Jane Austen|Galileo|Nikola Tesla|"
    "Anna|Peter|the president|my teacher|Frida Kahlo|Sam|Maria|John",
    "|",
)
PLACES = _listed(
    "Paris|London|Berlin|Rome|Madrid|Tokyo|New York|Vienna|Oslo|Lisbon|Cairo|Sydney|Peru|Italy|"
    "Japan|Spain|Canada|China|India|Brazil|Kenya|Norway|Poland|Mexico|Egypt|Greece|Sweden|Turkey|"
    "San Francisco|Amsterdam|Prague|Dublin|Chicago|Boston|Helsinki|Athens",
    "|",
)
LANGUAGES = (
    "French",
    "German",
    "Spanish",
    "Italian",
    "Japanese",
    "Chinese",
    "Rust",
    "Java",
    "C++",
    "Go",
)

# Short, common words: to spell, to repeat, and to ask about.
WORDS = _listed("""
    cat dog house tree water apple bread green table chair window garden river mountain ocean
    flower summer winter spring autumn happy music paper pencil school friend family mother father
    sister brother morning evening night yellow purple orange silver golden banana cherry lemon
    melon potato tomato carrot onion pepper butter cheese coffee sugar honey rabbit horse tiger
    lion monkey zebra eagle dolphin whale shark spider turtle snake bird fish mouse sheep goat cow
    pig chicken duck frog bear wolf fox computer keyboard screen board network model machine
    memory engine number letter word story song dance game ball train car bus bicycle plane boat
    ship bridge street city village country island beach forest desert lake cloud rain snow wind
    storm sun moon star planet earth space time day week month year hour minute second clock door
    key lock wall roof floor kitchen bed lamp book page pen bag box cup plate spoon fork knife
    bottle glass hat coat shoe shirt dress ring coin gold iron stone wood fire smoke light shadow
    color red blue black white brown pink small big long short fast slow hot cold warm soft hard
    old new good kind brave quiet loud clean sweet sour open close run walk jump swim read write
    sing play work sleep eat drink think learn teach hello world robot energy history science
    chess football weather electricity democracy philosophy economics gravity evolution quantum
    physics chemistry biology mathematics poetry painting cooking language internet privacy love
    peace dream idea question answer hope luck truth art life exo rkllama python linux strawberry
    elephant butterfly umbrella chocolate
""")
