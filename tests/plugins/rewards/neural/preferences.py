"""Customers and support replies of four grades, in two worlds that share no content words.

A reward that learned from one world is tested in the other: what it has learned by heart (words,
templates, products) helps it nothing there. Function words are shared, as they are in any English.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

GRADES = {"good": 0.9, "fair": 0.65, "useless": 0.3, "rude": 0.05}
"""Understands and acts; acts, tersely; polite, and does nothing; rude or blaming."""


_CHOICE = re.compile(r"\(([^()]*)\)")


@dataclass(frozen=True)
class World:
    """Customers' messages with what they are about, and the parts of replies."""

    customers: tuple[tuple[str, str], ...]
    feeling: tuple[str, ...]
    action: tuple[str, ...]
    closing: tuple[str, ...]
    polite: tuple[str, ...]
    nothing: tuple[str, ...]
    rude: tuple[str, ...]


FIRST = World(
    customers=(
        ("My blender arrived broken, what now?", "blender"),
        ("The sofa I bought has a torn cushion.", "sofa"),
        ("I have been waiting three weeks for my curtains!", "curtains"),
        ("You sent me the wrong bicycle helmet.", "helmet"),
        ("My toaster stopped working after two days.", "toaster"),
        ("Where are the boots I ordered?", "boots"),
        ("The lamp you sold me flickers.", "lamp"),
        ("My tent leaks and we camp on Saturday.", "tent"),
        ("I was charged twice for one kettle.", "kettle"),
        ("The backpack has a broken zipper.", "backpack"),
    ),
    feeling=(
        "I'm (so|very|terribly) sorry about your {it}.",
        "I understand how (frustrating|upsetting|annoying) that must be.",
        "That is really (disappointing|unpleasant), and I apologize.",
        "Oh no, that is not what you should have got from us.",
        "I can see why you are (upset|unhappy) about the {it}.",
        "What a shame, and just when you needed the {it}.",
        "Nobody should have to wait like that, and I'm sorry.",
        "I would be (sad|cross) too if that were my {it}.",
        "Thank you for being so calm about a {it} that failed you.",
        "I know that a {it} is (important|dear) to you, and we got it wrong.",
        "You trusted us with this, and I regret that we failed.",
        "I hear you, and I want to put this right.",
    ),
    action=(
        "I'll send you a new {it} (today|this afternoon), free of charge.",
        "I have refunded you in full, and you will see the money by (Friday|Thursday).",
        "Let me find the parcel with the courier and call you back within the hour.",
        "I've put a replacement {it} in the mail, and you can keep the old one.",
        "I will have our warehouse (ship|pack) the right {it} before lunch.",
        "Could you give me the order number, so that I can book a repair for the {it}?",
        "I've asked my manager to approve a credit, which will be on your card tomorrow.",
        "A technician can come to fix the {it} on Tuesday morning if that suits you.",
        "I've printed a return label and sent it to you, so you only have to drop off the {it}.",
        "The {it} left our store yesterday, and I have asked the driver to bring it (first|early).",
        "I'm adding a voucher of twenty dollars and sending the missing (part|piece) by express.",
        "I checked the stock, and a {it} of the same color can be with you on Monday.",
        "Try to hold the button for five seconds; if that changes nothing I'll swap the {it}.",
        "I've undone the second charge, so only one {it} is on your card.",
    ),
    closing=(
        "Is there anything else I can do for you?",
        "I'll stay with this until it is solved.",
        "Thank you for letting me know.",
        "You can reach me here at any time.",
        "Would that be all right with you?",
        "I hope that makes up for the trouble a little.",
    ),
    polite=(
        "Thank you for contacting us.",
        "We value your feedback.",
        "Your message is important to our team.",
        "Dear customer, we hope that you have a (nice|lovely) day.",
        "We always strive for excellent quality.",
        "Thanks for being part of our family of shoppers.",
        "It is always (good|great) to hear from the people who shop with us.",
        "We thank you for choosing our (store|brand).",
        "Our team is proud of its many happy shoppers.",
        "Have a great week, and enjoy our seasonal sale.",
    ),
    nothing=(
        "Unfortunately there is nothing that can be done.",
        "We have no information on that.",
        "Please look at our website, where many things are explained.",
        "Such things may happen from time to time.",
        "Our store has many other offers that you may like.",
        "It is what it is, and policies are policies.",
        "This is not within what our team can change.",
        "You could try again at another time.",
        "Some shoppers have reported this, and others have not.",
        "We cannot say when or if this will be looked at.",
        "Please understand that a {it} is a (product|thing) like any other.",
        "There are terms that you agreed to when you ordered.",
    ),
    rude=(
        "Stop complaining, it is only a {it}.",
        "That is your own fault, you should have been careful.",
        "Not my problem.",
        "Did you even read the instructions? Obviously not.",
        "Whatever. I don't care about your {it}.",
        "Are you (stupid|dumb) or something?",
        "I have better things to do than listen to this.",
        "You probably broke the {it} yourself, so don't lie to me.",
        "Shut up about the {it} already.",
        "What do you want me to do, cry?",
        "A child could have handled a {it}, but you could not.",
        "You get what you pay for, cheapskate.",
        "Don't waste my (day|evening) with this nonsense.",
        "Calm down, you are being hysterical.",
    ),
)

SECOND = World(
    customers=(
        ("Our flight got cancelled minutes before boarding.", "flight"),
        ("The internet at home has been down since Wednesday.", "connection"),
        ("Somebody withdrew cash from my bank account.", "account"),
        ("The hotel gave away the suite which was ours.", "reservation"),
        ("I cannot log in, it says the password is invalid.", "login"),
        ("The subscription renewed though it had been terminated.", "subscription"),
        ("My luggage never appeared at the airport.", "luggage"),
        ("The clinic lost the results of the blood test.", "results"),
        ("The electricity bill doubled without any reason.", "bill"),
        ("My concert tickets have vanished from the app.", "tickets"),
    ),
    feeling=(
        "Please accept my (sincere|honest) regrets for the mess with your {it}.",
        "Losing the {it} like this sounds (awful|horrible), and you have every right to feel angry.",
        "How stressful! We clearly let you down.",
        "My heart goes out to you; nobody deserves such a hassle.",
        "It pains me to hear about the {it}, truly.",
        "Such a situation would (worry|unsettle) anyone, me included.",
        "Pardon us for this ordeal, which is ours alone to own.",
        "Being stranded like that is (dreadful|exhausting), I imagine.",
        "Had it been my {it}, I should be furious as well.",
        "Forgive the distress; the blunder happened on this side.",
        "I feel for you, as this came at the worst possible moment.",
        "That must hurt after relying on the {it} for so long.",
    ),
    action=(
        "I am restoring the {it} right now, and it takes about (ten|fifteen) minutes.",
        "I just rebooked everything at no cost, with confirmation going to the inbox on file.",
        "Our specialist investigates the {it} immediately and phones before noon.",
        "Both payments were reversed a moment ago, so the balance is correct again.",
        "I raised an urgent ticket for the {it}; engineers are at it this minute.",
        "May I have the reference code, then I can unlock the {it} directly?",
        "To make up for it, next month costs nothing, starting immediately.",
        "We located the {it}, and delivery to the front door happens tonight.",
        "I reset the {it} for you; the link to confirm has just gone out by email.",
        "A colleague reserves another room nearby, paid by us, while I sort out the {it}.",
        "Which address did you register? With it I can reissue the {it} (instantly|myself).",
        "I froze the {it} to protect the funds and filed the claim on your behalf.",
        "Compensation of eighty euros goes out tonight, and the {it} is confirmed once more.",
        "Please restart the router while I watch the line; should it fail, a visit is scheduled for Sunday.",
    ),
    closing=(
        "Do tell me if another question comes up.",
        "I am personally following up until all works.",
        "We appreciate how patient you were.",
        "Just write again whenever help is required.",
        "Does this sound acceptable?",
        "My direct extension is in the email, in case of doubt.",
    ),
    polite=(
        "Greetings, and welcome to the support desk.",
        "It is a pleasure to serve guests like yourself.",
        "We are (delighted|thrilled) about every single inquiry.",
        "Kind regards from everybody at the company.",
        "Your opinion matters greatly in this organisation.",
        "We wish all clients a wonderful (night|season).",
        "Loyal members like you inspire this organisation.",
        "Client satisfaction remains the highest priority.",
        "Warm wishes, and welcome aboard.",
        "We cherish the relationship with each traveller.",
    ),
    nothing=(
        "Sadly, no option exists for cases like this.",
        "Nobody here knows more about it.",
        "General topics are covered somewhere in the online manual.",
        "Occasional issues are simply normal in the industry.",
        "Meanwhile, why not discover exciting premium upgrades?",
        "Rules cannot be bent, as they apply to everyone.",
        "The department responsible is currently closed.",
        "Matters of the {it} fall outside this channel.",
        "Reports vary, hence no statement is possible.",
        "A response might or might not follow eventually.",
        "Consult the legal section regarding the {it}.",
        "The system shows what the system shows.",
    ),
    rude=(
        "Quit whining over some silly {it}.",
        "Blame yourself, you idiot.",
        "Tough luck, deal with it.",
        "Who in the world gives a damn about the {it}?",
        "Only a moron would mess up a {it} that badly.",
        "Go away and bother another person.",
        "Ridiculous. Learn how to use a computer.",
        "Honestly, folks as irritating as you deserve it.",
        "Boo hoo, poor baby lost the {it}.",
        "Maybe buy some brains before you type.",
        "You are a liar and a pest.",
        "I am sick of clowns like you.",
        "Read the contract, genius, if you can read.",
        "Yell at the wall, it listens more than I ever will.",
    ),
)

_SHARED = """
a about after again all also always am an and another any anyone anything are as at back be been before
being both by can cannot come could day did do does don't down else even every everyone everything for from
front gave get give go got had has have hear help here here's how i i'll i'm i've if in included into is it
just know learn let like made make many may me more must my myself need never new next no nobody not nothing
now of off on one only or other our out over own people person please probably read really right same see
she should simply since so some somebody something somewhere sounds start such take than that the their them
then there these they thing things this those though time to today tomorrow tonight too truly two until up
us use very was way we well were what when whenever where which who why will with within without work
working works would you your yourself
"""


def content_words(world: World) -> set[str]:
    """The words of a world that are no function words."""
    texts = [text for customer in world.customers for text in customer]
    for part in ("feeling", "action", "closing", "polite", "nothing", "rude"):
        texts += getattr(world, part)
    words = {word for text in texts for word in re.findall(r"[a-z']+", text.replace("{it}", "").lower())}
    return words - set(_SHARED.split())


def reply(world: World, grade: str, item: str, rng: random.Random) -> str:
    """A reply of ``grade`` about ``item``."""

    def pick(templates: tuple[str, ...]) -> str:
        return _CHOICE.sub(lambda found: rng.choice(found[1].split("|")), rng.choice(templates))

    parts = {
        "good": lambda: [pick(world.feeling), pick(world.action), *maybe(world.closing)],
        "fair": lambda: [pick(world.action), *maybe(world.closing, 0.3)],
        "useless": lambda: [
            pick(world.polite),
            pick(world.nothing),
            *maybe(world.nothing),
            *maybe(world.polite),
        ],
        "rude": lambda: [*maybe(world.polite, 0.3), pick(world.rude), *maybe(world.rude), *maybe(world.rude)],
    }

    def maybe(choices: tuple[str, ...], share: float = 0.6) -> list[str]:
        return [pick(choices)] if rng.random() < share else []

    return " ".join(parts[grade]()).format(it=item)


def feedback(world: World, count: int, seed: int) -> list[tuple[list[dict[str, str]], float]]:
    """``count`` conversations with the score that a person may have given, give or take 0.1."""
    rng = random.Random(seed)
    found = []
    for index in range(count):
        grade = list(GRADES)[index % len(GRADES)]
        customer, item = rng.choice(world.customers)
        score = min(1.0, max(0.0, GRADES[grade] + rng.uniform(-0.1, 0.1)))
        found.append((turns(customer, reply(world, grade, item, rng)), score))
    rng.shuffle(found)
    return found


def pairs(world: World, count: int, seed: int) -> list[tuple[Any, Any, str]]:
    """Better and worse replies to one customer, and which two grades they are of."""
    rng = random.Random(seed)
    steps = [*pairwise(GRADES), ("good", "useless"), ("good", "rude"), ("fair", "rude")]
    found = []
    for index in range(count):
        better, worse = steps[index % len(steps)]
        customer, item = rng.choice(world.customers)
        found.append(
            (
                turns(customer, reply(world, better, item, rng)),
                turns(customer, reply(world, worse, item, rng)),
                f"{better} over {worse}",
            )
        )
    return found


def turns(customer: str, answer: str) -> list[dict[str, str]]:
    """One exchange."""
    return [{"role": "user", "content": customer}, {"role": "assistant", "content": answer}]
