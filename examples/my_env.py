"""A shop whose prices change every day: only who looks them up can know them."""

import random

from agentrl import Env, Task, ToolError, reward, tool

ITEMS = [f"{look} {thing}" for look in ("red", "blue", "old") for thing in ("lamp", "map", "coat")]
OFFERS = [(item, str(price)) for item in ITEMS for price in range(100, 1000)]


class Shop(Env):
    prompt = "Look up the price and answer with it."

    def tasks(self, split):
        offers = random.Random(0).sample(OFFERS, 2200)
        for item, price in offers[200:] if split == "train" else offers[:200]:
            yield Task(f"What does the {item} cost?", answer=price, metadata={"item": item})

    async def reset(self, task):
        self.item, self.price = task.metadata["item"], task.answer

    @tool
    def look_up(self, item: str) -> str:
        """Look up what an item costs."""
        if item != self.item:
            raise ToolError(f"There is no {item} in the shop.")
        return self.price

    @reward
    def correct(self, episode):
        return float(episode.final_text.strip() == self.price)

    def expert(self, task, rng):  # shows a new model the form: it looks one time in three, else it guesses
        answer = str(rng.randint(100, 999))
        if rng.random() < 1 / 3:
            call = {"name": "look_up", "arguments": {"item": task.metadata["item"]}}
            [answer] = yield {"role": "assistant", "tool_calls": [{"type": "function", "function": call}]}
        yield {"role": "assistant", "content": answer}
