"""What customers of the support desk write about, by topic and split."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topic:
    """A kind of problem. Openings have the slots ``{product}``, ``{time}`` and ``{amount}``."""

    name: str
    thing: str
    """What the customer calls it later."""
    detail: str
    """What the agent has to ask for: ``order number``, ``email address`` or ``account number``."""
    train: tuple[str, ...]
    held_out: tuple[str, ...]


TOPICS: tuple[Topic, ...] = (
    Topic(
        "late_order",
        "my order",
        "order number",
        (
            "My {product} was supposed to arrive {time} ago and it is still not here.",
            "I have been waiting for my {product} for {time}. Where is it?",
            "The {product} I ordered is {time} late.",
            "It has been {time} and my {product} has not been delivered.",
        ),
        (
            "Delivery of my {product} is overdue by {time} now.",
            "I still have no sign of the {product} that I bought {time} ago.",
        ),
    ),
    Topic(
        "refund",
        "my refund",
        "order number",
        (
            "I returned a {product} {time} ago and have not got my ${amount} back.",
            "Where is my refund of ${amount} for the {product}?",
            "I want my money back for the {product}. I paid ${amount}.",
            "You promised me a refund for the {product} {time} ago.",
        ),
        (
            "The ${amount} for the {product} that I sent back never reached my bank.",
            "How much longer do I wait for the ${amount} you owe me for a {product}?",
        ),
    ),
    Topic(
        "locked_account",
        "my account",
        "email address",
        (
            "I have been locked out of my account for {time}.",
            "My account is locked and I need to order a {product}.",
            "I cannot log in. My password stopped working {time} ago.",
            "Your site says my account is blocked, but I only wanted to buy a {product}.",
        ),
        (
            "Signing in has been impossible for {time}; it keeps rejecting me.",
            "I was in the middle of buying a {product} when I got thrown out of my profile.",
        ),
    ),
    Topic(
        "billing",
        "the charge",
        "account number",
        (
            "You charged me ${amount} twice for the same {product}.",
            "There is a charge of ${amount} on my card that I do not recognize.",
            "My bill went up by ${amount} and nobody told me why.",
            "I was billed ${amount} for a {product} that I never ordered.",
        ),
        (
            "My statement lists ${amount} for a {product}, and that cannot be right.",
            "Why did ${amount} leave my bank {time} ago without my consent?",
        ),
    ),
    Topic(
        "damaged_product",
        "the damage",
        "order number",
        (
            "The {product} that I received is broken.",
            "My new {product} arrived with a crack and does not work.",
            "I opened the box and the {product} was damaged.",
            "The {product} stopped working after {time}.",
        ),
        (
            "My {product} came in pieces, and I paid ${amount} for it.",
            "Only {time} of use, and already the {product} is falling apart.",
        ),
    ),
    Topic(
        "cancel_subscription",
        "my cancellation",
        "account number",
        (
            "I want to cancel my subscription, but the button does not work.",
            "I cancelled my subscription {time} ago and you still charged me ${amount}.",
            "Please stop my subscription. I pay ${amount} a month and never use it.",
            "How do I get out of this subscription for the {product} plan?",
        ),
        (
            "End my membership, please; ${amount} is too much for me.",
            "I asked you {time} ago to stop renewing my plan, and it renewed again.",
        ),
    ),
    Topic(
        "technical",
        "this problem",
        "email address",
        (
            "The app crashes every time I open the page of my {product}.",
            "My {product} does not connect to the internet any more.",
            "I have tried to update my {product} for {time} and it always fails.",
            "The setup of my {product} stops halfway with an error.",
        ),
        (
            "Since {time} my {product} refuses to pair with the app.",
            "Whenever I start the {product}, its screen freezes.",
        ),
    ),
    Topic(
        "wrong_item",
        "the right item",
        "order number",
        (
            "I ordered a {product} and got something else.",
            "You sent me the wrong {product}.",
            "This is not the {product} that I ordered {time} ago.",
            "The box has the wrong {product} in it. I paid ${amount} for a better one.",
        ),
        (
            "There is somebody else's {product} in my parcel.",
            "I unpacked a {product} of the wrong color, {time} after ordering.",
        ),
    ),
)

TOPIC_NAMES = tuple(topic.name for topic in TOPICS)

NAMES = {
    False: ("Alex", "Priya", "John", "Fatima", "Carlos", "Nina", "Samuel", "Julia", "Ahmed", "Laura"),
    True: ("Bianca", "Oscar", "Leila", "Viktor", "Rosa"),
}
PRODUCTS = {
    False: (
        "laptop",
        "phone",
        "coffee maker",
        "headset",
        "printer",
        "vacuum cleaner",
        "bicycle",
        "watch",
        "monitor",
        "toaster",
        "desk",
        "speaker",
    ),
    True: ("tablet", "blender", "camera", "sofa", "router", "heater"),
}
TIMES = {
    False: ("three days", "five days", "a week", "ten days", "two weeks", "a month"),
    True: ("four days", "eight days", "three weeks", "two months"),
}
GREETINGS = {
    False: ("Hello. ", "Hi! ", "Hi, {name} here. ", "Hello, this is {name}. ", ""),
    True: ("Good afternoon, {name} speaking. ", "Hey there. ", "Good evening. "),
}
MOODS = {
    False: (
        "",
        " I am very upset.",
        " This is really frustrating.",
        " Can you help me?",
        " I do not know what to do.",
        " This is the second time.",
    ),
    True: (" I am losing my patience.", " What can be done?", " I expected better.", ""),
}
