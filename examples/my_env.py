"""Prices change every day: only who looks them up can know them."""

from random import Random

from agentrl import Env, Task, call, reward, say, tool


def price(day):
    return str(Random(day).randint(100, 999))


class Shop(Env):
    prompt = "Look up the price and answer with it."

    def tasks(self, split):
        return [Task(f"Price on day {day}?", answer=price(day)) for day in range(split == "test", 999, 2)]

    @tool
    def look_up(self, day: int) -> str:
        """Look up the price on a day."""
        return price(day)

    @reward
    def correct(self, episode):
        return float(episode.final_text.strip() == episode.task.answer)

    def expert(self, task, rng):  # shows a new model the form: it looks one time in three, or else guesses
        answer = price(rng.random())
        if rng.random() < 1 / 3:
            [answer] = yield call("look_up", day=int(task.prompt.split()[-1].strip("?")))
        yield say(answer)
