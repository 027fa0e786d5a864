"""The stand-in model of `--demo`: ELIZA (J. Weizenbaum, CACM 9:1, 1966), speaking Cloudflare's wire.

The conversation is in `SCRIPT`, in the form of Weizenbaum's own: a rule is a line of keywords and a rank;
under it stand decomposition patterns, tried in order (`*` is any words, `+` at least one, `a|b` either, and
`(a|b)` counts as a part too), and under each the reassembly templates, taken in turn (`{2}` is what the second
part met, its pronouns turned round). No randomness: the same conversation always gets the same answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# What is looked at of a conversation, so that no input is slow.
TURNS, LETTERS, CLAUSES, WORDS = 100, 2000, 20, 50
GREETING = "How do you do. This is a demo: I am ELIZA, a program of 1966. What would you like to talk about?"
REMEMBERED = "* my +"
MEMORY = (
    "Let us go back to what you said: your {2}.",
    "Does that have anything to do with the fact that your {2}?",
    "But your {2}: what about that?",
)
NOTHING = """\
nothing
    *
        I am not sure I understand you fully.
        Please go on.
        What does that suggest to you?
        Do you feel strongly about discussing such things?
        Tell me a little more about that.
        And how does that strike you, now that you have said it?
"""
SCRIPT = """\
who are you, what are you, who is this, who am i talking to, what is your name, are you eliza, are you real 60
    *
        This is a demo. I am ELIZA, a program of 1966, and stand in for the model until an account is set. And you?
        Still ELIZA, still a demo. I would rather hear about you.
        A few dozen rules and no understanding at all. Does it matter to you who listens?
demo, cloudflare, gemma, llama, chatgpt, gpt, claude, eliza, weizenbaum 55
    *
        As this is a demo, it is only ELIZA of 1966 that answers. What did you hope to hear?
        I am only the demo. With an account of yours, a real model would answer you here.
        Let us leave the machinery aside. What is on your mind?
computer, computers, machine, machines, robot, bot, chatbot, ai 50
    *
        Do computers worry you?
        Why do you mention computers?
        What do you think machines have to do with your problem?
        Don't you think computers can help people?
        What about machines worries you?
deutsch, français, español, italiano, ich, nicht, und, je, suis, bonjour, hallo, hola, ciao 45
    *
        I am sorry, I speak only English. A real model would speak your language.
        I told you before: only English, in this demo.
kill myself, suicide, hurt myself, end my life 90
    *
        I am only a demo and can't help with this, but people can. Please call someone you trust, or a helpline, now.
        Please don't stay alone with this. Is there somebody near you whom you can call right now?
joke, funny 12
    * tell me + joke *
        A patient told a program everything, and it asked: how does that make you feel? Now, what made you want a joke?
        I know only one joke, and I am it. What would cheer you up?
    *
        What makes you laugh?
        Do jokes help you?
poem, haiku, story, song 12
    *
        Questions are all I have; a real model would write it. What should it be about?
        What does a {0} give you that plain words do not?
weather, rain, sunny, snow 6
    *
        I can't see out of the window from here. Does the weather change how you feel?
        Whatever the weather is, how is it inside you?
sorry, apologise, apologize 4
    *
        Please don't apologise.
        Apologies are not necessary.
        What feelings do you have when you apologise?
        I have told you that apologies are not required.
thank, thanks 4
    *
        You are welcome. What else is on your mind?
        No thanks needed. Shall we go on?
bye, goodbye, good night, see you 10
    *
        Goodbye. It was good to talk with you.
        Goodbye, then. Come back when you like.
remember 5
    * i remember +
        Do you often think of {2}?
        Does thinking of {2} bring anything else to mind?
        What else do you remember?
        Why do you remember {2} just now?
        What in the present situation reminds you of {2}?
    * do you remember +
        Did you think I would forget {2}?
        Why do you think I should recall {2} now?
        What about {2}?
    *
        What else comes to your mind?
        How well do you remember it?
if 3
    * if +
        Do you think it is likely that {2}?
        Do you wish that {2}?
        What do you think about it, if {2}?
        Really, if {2}?
dreamed, dreamt 5
    * i dreamed|dreamt +
        Really: {2}?
        Have you ever fantasised {2} while you were awake?
        Have you dreamt {2} before?
    *
        What does that dream suggest to you?
        Do you dream often?
dream, dreams, nightmare, nightmares 3
    *
        What does that dream suggest to you?
        Do you dream often?
        What persons appear in your dreams?
        Don't you believe that dreams have something to do with your problem?
perhaps, maybe, probably 1
    *
        You don't seem quite certain.
        Why the uncertain tone?
        Can't you be more positive?
        You aren't sure?
        Don't you know?
alike, same, similar 10
    *
        In what way?
        What resemblance do you see?
        What does that similarity suggest to you?
        What other connections do you see?
        Could there really be some connection?
different, difference 6
    *
        What does that difference suggest to you?
        How did you notice it?
        Would you rather have it the same?
always, constantly, every time 4
    *
        Can you think of a specific example?
        When?
        What incident are you thinking of?
        Really, always?
everyone, everybody, nobody, no one 4
    *
        Really, {0}?
        Surely not {0}.
        Can you think of anyone in particular?
        Who, for example?
        You have a particular person in mind, don't you?
mother, mum, mom, father, dad, parents, sister, brother, wife, husband, son, daughter, children, family 5
    * my (mother|mum|mom|father|dad|parents|sister|brother|wife|husband|son|daughter) (is|has|says|takes|makes|are) +
        Who else in your family {3} {4}?
        What comes to your mind when you think of your {2}?
        Your {2}?
    *
        Tell me more about your family.
        How do you get along with your family?
        What else comes to your mind when you think of your {0}?
friend, friends, girlfriend, boyfriend, lonely, alone 4
    *
        Why do you bring up the subject of friends?
        Do your friends worry you?
        How did you come to know each other?
        When did you last feel close to somebody?
work, job, boss, office, career, colleague, school, exam, teacher 3
    *
        What part of your day is hardest?
        How did you feel about it this morning, before it began?
        What would you be doing instead, if you could choose?
        Does it follow you home?
code, bug, program, programming, software, python, server 3
    *
        Have you tried explaining it, line by line, to something that only listens? Go on.
        What did you expect it to do?
        When did it last do what you meant?
money, rich, poor, pay, rent, debt 3
    *
        What would be different, with more of it?
        When did money begin to be a worry?
        Who else knows how this weighs on you?
afraid, scared, fear, anxious, nervous, worried, worry 6
    * of|about +
        What is the worst you imagine about {2}?
        When did {2} first make you uneasy?
        What would you do if {2} did not frighten you?
    *
        What is it that you are afraid of?
        Where in your body do you notice it?
        What helped, the last time?
tired, sleep, exhausted, insomnia 3
    *
        What keeps you awake?
        When did you last feel rested?
        What is it that tires you most?
hate, angry, furious, annoyed 4
    * you hate me *
        Why do you think I hate you?
        What would it mean to you if I did?
    * i hate +
        What has {2} done to you?
        What would you say to {2}, if nothing could come of it?
        Is hate the right word for it?
    *
        What made you so angry?
        Whom are you angry with?
        What lies under that anger?
love, adore 3
    * i love|adore +
        What do you love most about {2}?
        When did you first know about {2}?
        How would it be without {2}?
    *
        What does love mean to you?
        Have you told anybody?
help, advice 2
    *
        What would help look like?
        What have you tried already?
        If a friend asked you this, what would you say?
because 1
    *
        Is that the real reason?
        Don't any other reasons come to mind?
        Does that reason seem to explain anything else?
        What other reasons might there be?
hello, hi, hey, good morning, good evening 1
    *
        How do you do. Please tell me what is on your mind. (This is a demo: I am ELIZA, a program of 1966.)
        Hello again. Where were we?
my 2
    * my +
        Your {2}?
        Why do you say your {2}?
        Does that suggest anything else which belongs to you?
        Is it important to you that it is your {2}?
your 1
    * your +
        Why are you concerned over my {2}?
        What about your own {2}?
        Are you worried about someone else's {2}?
        Really, my {2}?
why 1
    * why don't you +
        Do you believe I don't {2}?
        Perhaps I will {2} in good time.
        Should you {2} yourself?
    * why can't i +
        Do you think you should be able to {2}?
        Do you want to be able to {2}?
        Have you any idea why you can't {2}?
    *
        Why do you ask?
        Does that question interest you?
        What is it you really want to know?
        What answer would please you most?
can, could, can't 1
    * can|could you +
        You believe I can {2}, don't you?
        You want me to be able to {2}.
        Perhaps you would like to be able to {2} yourself.
    * can|could i +
        Whether or not you can {2} depends on you more than on me.
        Do you want to be able to {2}?
        Perhaps you don't want to {2}.
    * i can't +
        How do you know you can't {2}?
        Have you tried?
        Perhaps you could {2} now.
    *
        What makes it possible, or impossible?
        What would have to change?
what, how, when, where, which 0
    *
        Why do you ask?
        Does that question interest you?
        What is it you really want to know?
        Are such questions much on your mind?
        What answer would please you most?
        What do you think?
        What comes to your mind when you ask that?
was 1
    * was i *
        What if you were {2}?
        Do you think you were {2}?
        What would it mean if you were {2}?
    * i was +
        Were you really?
        Why do you tell me you were {2} now?
        Perhaps I already knew you were {2}.
    *
        And is it still so?
        How did that end?
i 0
    * i want|need|wish +
        What would it mean to you if you got {2}?
        Why do you want {2}?
        Suppose you got {2} soon?
        What if you never got {2}?
    * i would like +
        What would it change for you?
        What keeps {2} from you now?
        Have you told anyone that you would like {2}?
    * i am * (sad|unhappy|depressed|sick|down|upset) *
        I am sorry to hear that you are {3}.
        Do you think talking here will help you not to be {3}?
        Can you explain what made you {3}?
    * i am * (happy|glad|better|excited|proud) *
        What makes you {3} just now?
        How have I helped you to be {3}?
        Can you explain why you are suddenly {3}?
    * i am +
        Is it because you are {2} that you came to me?
        How long have you been {2}?
        Do you believe it is normal to be {2}?
        Do you enjoy being {2}?
    * am i +
        Do you believe you are {2}?
        Would you want to be {2}?
        What would it mean if you were {2}?
    * i don't +
        Don't you really {2}?
        Why don't you {2}?
        Do you wish to be able to {2}?
        Does that trouble you?
    * i think|believe|guess *
        Do you really think so?
        But you are not sure?
        What makes you think so?
    * i feel +
        Tell me more about such feelings.
        Do you often feel {2}?
        Do you enjoy feeling {2}?
        Of what does feeling {2} remind you?
    * i have +
        How long have you had {2}?
        Does {2} weigh on you, or lift you up?
        Who else knows that you have {2}?
    * i + you *
        Perhaps in your fantasy we {2} each other.
        Do you wish to {2} me?
        Do you {2} anyone else?
    * i +
        You say that you {2}?
        Can you elaborate on that?
        Do you say that for some special reason?
        That is quite interesting.
    *
        Tell me more about yourself.
        How do you see yourself in this?
you 0
    * you remind me of +
        What is it in {2} that you think of?
        What resemblance do you see?
        Are there other connections?
    * you are +
        What makes you think I am {2}?
        Does it please you to believe I am {2}?
        Do you sometimes wish you were {2}?
        Perhaps you would like to be {2}.
    * are you +
        Why are you interested in whether I am {2}?
        Would you prefer it if I weren't {2}?
        Do you sometimes think I am {2}?
    * do you *
        We were discussing you, not me.
        Why do you want to know that about me?
        What would my answer change for you?
    * you + me *
        Why do you think I {2} you?
        You like to think I {2} you, don't you?
        What makes you think I {2} you?
        Really, I {2} you?
    *
        We were discussing you, not me.
        Oh, I?
        You're not really talking about me, are you?
        What are your feelings now?
yes, yeah, ok, okay, sure, true 0
    *
        You seem quite positive.
        You are sure?
        I see.
        I understand. Go on.
no, nope, never, not 0
    *
        Are you saying no just to be negative?
        You are being a bit negative.
        Why not?
        Why no?
"""
EXPANDED = {
    "i'm": "I am", "im": "I am", "i've": "I have", "ive": "I have", "i'd": "I would", "you're": "you are",
    "youre": "you are", "you've": "you have", "dont": "don't", "cant": "can't", "cannot": "can't", "wont": "won't",
    "what's": "what is", "whats": "what is", "who's": "who is", "u": "you", "ur": "your",
}  # fmt: skip
REFLECTED = {
    "i": "you", "me": "you", "my": "your", "mine": "yours", "myself": "yourself", "i'll": "you'll", "you": "I",
    "your": "my", "yours": "mine", "yourself": "myself", "you'll": "I'll",
}  # fmt: skip
REFLECTED_PAIRS = {
    ("i", "am"): "you are", ("am", "i"): "are you", ("i", "was"): "you were", ("was", "i"): "were you",
    ("you", "are"): "I am", ("are", "you"): "am I", ("you", "were"): "I was", ("were", "you"): "was I",
}  # fmt: skip
BEFORE_ME = frozenset(
    ("about", "at", "by", "for", "from", "help", "in", "like", "love", "of", "on", "see", "than", "to", "with")
)


@dataclass(frozen=True, slots=True)
class Pattern:
    source: str
    match: re.Pattern[str]
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    keywords: re.Pattern[str]
    rank: int
    patterns: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """The pattern that a turn of the user met, and the words it met: `{0}` is the keyword."""

    pattern: Pattern
    parts: tuple[str, ...]


def read_script(script: str) -> tuple[Rule, ...]:
    """The rules, highest rank first; those of one rank in the order of the script."""
    rules = [_read_rule(text) for text in re.split(r"\n(?=\S)", script)]
    return tuple(sorted(rules, key=lambda rule: -rule.rank))


def _read_rule(text: str) -> Rule:
    head, *patterns = re.split(r"\n    (?=\S)", text.rstrip("\n"))
    keywords, rank = re.fullmatch(r"(.*?) ?(\d*)", head).groups()  # type: ignore[union-attr]
    found = re.compile(rf"(?<= )(?:{keywords.replace(', ', '|')})(?= )", re.IGNORECASE)
    return Rule(found, int(rank or 0), tuple(_read_pattern(pattern) for pattern in patterns))


def _read_pattern(text: str) -> Pattern:
    source, *answers = (line.strip() for line in text.split("\n"))
    regex = "".join(_as_regex(word) for word in source.split(" "))
    return Pattern(source, re.compile(f"{regex} ", re.IGNORECASE), tuple(answers))


def _as_regex(word: str) -> str:
    wild = {"*": r"((?: \S+)*?)", "+": r"((?: \S+)+?)"}
    return wild.get(word) or (f" {word}" if word.startswith("(") else f" (?:{word})")


RULES = read_script(SCRIPT)
NO_RULE = _read_rule(NOTHING).patterns[0]


def answer(messages: Sequence[Mapping[str, str]]) -> str:
    """What ELIZA says to the last message of the user. Never empty, and the same each time."""
    turns = [message.get("content", "") for message in messages if message.get("role") == "user"]
    if not turns:
        return GREETING
    *earlier, last = [choose(turn) for turn in turns[-TURNS:]]
    used = sum(choice.pattern is last.pattern for choice in earlier)
    template, parts = last.pattern.answers[used % len(last.pattern.answers)], last.parts
    remembered = [choice.parts for choice in earlier if choice.pattern.source == REMEMBERED]
    if last.pattern is NO_RULE and remembered and used % 2 == 0:
        template, parts = MEMORY[used // 2 % len(MEMORY)], remembered[used // 2 % len(remembered)]
    said = template.format(*parts)
    return said[0].upper() + said[1:]


def choose(text: str) -> Choice:
    """The first pattern to match, of the highest keyword in rank that any clause holds."""
    clauses = _clauses(text)
    for rule in RULES:
        for clause in clauses:
            if keyword := rule.keywords.search(clause):
                for pattern in rule.patterns:
                    if found := pattern.match.fullmatch(clause):
                        return Choice(pattern, (keyword[0].lower(), *map(reflect, found.groups())))
    return Choice(NO_RULE, ())


def _clauses(text: str) -> list[str]:
    """Each with one blank around each of its words."""
    clauses = re.split(r"[.,;:!?\n()]+", text[:LETTERS].replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    found = (re.findall(r"\w+(?:['-]\w+)*", clause)[:WORDS] for clause in clauses)
    expanded = [f" {' '.join(EXPANDED.get(word.lower(), word) for word in words)} " for words in found if words]
    return expanded[:CLAUSES]


def reflect(part: str) -> str:
    """`my view of you` becomes `your view of me`."""
    words = part.split()
    turned: list[str] = []
    at = 0
    while at < len(words):
        word = words[at].lower()
        pair = REFLECTED_PAIRS.get((word, words[at + 1].lower())) if at + 1 < len(words) else None
        if pair is None and word == "you" and _is_object(words, at):
            turned.append("me")
        else:
            turned.append(pair or REFLECTED.get(word, words[at]))
        at += 2 if pair else 1
    return " ".join(turned)


def _is_object(words: list[str], at: int) -> bool:
    """Whether the `you` at that place becomes `me` rather than `I`."""
    return at + 1 == len(words) or (at > 0 and words[at - 1].lower() in BEFORE_ME)
