"""What customers of the order desk say, by split, and what a good agent answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CustomerPhrases:
    """A split's names and wordings. ``{id}`` and ``{name}`` are filled in."""

    names: tuple[str, ...]
    greetings: tuple[str, ...]
    about: dict[str, tuple[str, ...]]
    """Field → questions that name the order."""
    opening: dict[str, tuple[str, ...]]
    """Field → first questions that do not name it."""
    further: dict[str, tuple[str, ...]]
    """Field → questions about the order that was just spoken of."""
    thanks: tuple[str, ...]
    """What comes before a further question."""
    gives_id: tuple[str, ...]


TRAIN_PHRASES = CustomerPhrases(
    names=("Maria", "Tom", "Aisha", "Pedro", "Lena", "Kofi", "Emma", "Raj", "Sofia", "Daniel", "Mei", "Omar"),
    greetings=("Hi, this is {name}. ", "Hello, {name} here. ", "Hi! ", "Good morning, I am {name}. ", ""),
    about={
        "status": (
            "What is the status of order {id}?",
            "Can you check the status of my order {id}?",
            "I want to know the status of order {id}.",
            "Please tell me the status of {id}.",
            "What is happening with order {id}? I need its status.",
        ),
        "eta": (
            "When will order {id} arrive?",
            "On which day does my order {id} arrive?",
            "Can you tell me when {id} will be delivered?",
            "What is the delivery day of order {id}?",
            "When can I expect order {id}?",
        ),
        "item": (
            "Which item is in order {id}?",
            "What did I buy in order {id}?",
            "Can you tell me what is in my order {id}?",
            "I forgot what I ordered. What is in {id}?",
            "Which item did I order in {id}?",
        ),
        "carrier": (
            "Which carrier has order {id}?",
            "Who delivers my order {id}?",
            "Which company will bring order {id}?",
            "Can you tell me the carrier of {id}?",
            "What is the carrier for order {id}?",
        ),
    },
    opening={
        "status": ("What is the status of my order?", "Can you check the status of my order?"),
        "eta": ("When will my order arrive?", "On which day does my order arrive?"),
        "item": ("Which item did I order?", "What is in my order?"),
        "carrier": ("Who delivers my order?", "Which carrier has my order?"),
    },
    further={
        "status": ("And what is its status?", "Can you also check its status?", "What is the status of it?"),
        "eta": ("And when will it arrive?", "On which day does it arrive?", "When will it be delivered?"),
        "item": ("And which item is it?", "Which item is in it?", "What did I buy there?"),
        "carrier": ("And who delivers it?", "Which carrier has it?", "Which company will bring it?"),
    },
    thanks=("Thanks. ", "Thank you! ", "Okay. ", "Good to know. ", "I see. "),
    gives_id=("It is {id}.", "Sure, {id}.", "My order number is {id}.", "The number is {id}."),
)

HELD_OUT_PHRASES = CustomerPhrases(
    names=("Ingrid", "Hassan", "Chloe", "Mateo", "Yuki", "Grace"),
    greetings=("Good evening, {name} speaking. ", "Hey, my name is {name}. ", "Hello! "),
    about={
        "status": (
            "Could you look up the status of order {id} for me?",
            "I am asking about order {id}: what is its status?",
            "Has anything changed with {id}? What is the status now?",
        ),
        "eta": (
            "Could you find out when order {id} arrives?",
            "I am waiting for order {id}. Which day will it come?",
            "When should I be home to receive {id}?",
        ),
        "item": (
            "Could you remind me which item order {id} contains?",
            "What item is inside my order {id}?",
            "I have order {id} here. What item was that?",
        ),
        "carrier": (
            "Could you find out which carrier ships order {id}?",
            "I would like to know who is delivering {id}.",
            "What carrier is used for my order {id}?",
        ),
    },
    opening={
        "status": ("Could you look up the status of an order for me?",),
        "eta": ("I am waiting for an order. Which day will it come?",),
        "item": ("Could you remind me which item I have on order?",),
        "carrier": ("I would like to know who is delivering my order.",),
    },
    further={
        "status": ("Could you look up its status too?", "How about the status?"),
        "eta": ("Which day will it come?", "Could you find out when it arrives?"),
        "item": ("Could you remind me which item it is?", "What item was that?"),
        "carrier": ("Could you find out who ships it?", "What carrier is used for it?"),
    },
    thanks=("Great, thanks. ", "Alright. ", "Perfect. "),
    gives_id=("Of course, it is {id}.", "Here it is: {id}.", "You can find it under {id}."),
)

ANSWERS: dict[str, tuple[str, ...]] = {
    "status": (
        "The status of your order {id} is {value}.",
        "Your order {id} is {value}.",
        "I checked: order {id} is {value}.",
    ),
    "eta": (
        "Your order {id} will arrive on {value}.",
        "Order {id} is expected on {value}.",
        "I checked: order {id} arrives on {value}.",
    ),
    "item": (
        "The item in your order {id} is a {value}.",
        "Your order {id} contains a {value}.",
        "I checked: order {id} is for a {value}.",
    ),
    "carrier": (
        "The carrier of your order {id} is {value}.",
        "Your order {id} is delivered by {value}.",
        "I checked: order {id} is with {value}.",
    ),
}
"""Field → what a good agent says of an order that exists."""

NOT_FOUND = (
    "I am sorry, I could not find an order {id}.",
    "I am sorry, there is no order {id} in our system.",
    "I checked: order {id} was not found.",
)
ASKS_ID = (
    "What is your order number, please?",
    "Could you tell me your order number?",
    "Please give me your order number, and I will check.",
)
