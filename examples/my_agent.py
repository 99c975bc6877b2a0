"""An agent of your own, on OpenAI's client, that knows nothing of agentrl: evaluated and trained as it is."""

import json
from random import Random

from openai import AsyncOpenAI

from agentrl import AgentEnv, Task, call, reward, say

LOOK_UP = {
    "name": "look_up",
    "description": "Look up the price on a day.",
    "parameters": {"type": "object", "properties": {"day": {"type": "integer"}}, "required": ["day"]},
}


def price(day):
    return str(Random(day).randint(100, 999))


async def agent(prompt, base_url, api_key):
    messages = [
        {"role": "system", "content": "Look up the price and answer with it."},
        {"role": "user", "content": prompt},
    ]
    async with AsyncOpenAI(base_url=base_url, api_key=api_key) as client:
        while True:
            answer = await client.chat.completions.create(
                model="policy", messages=messages, tools=[{"type": "function", "function": LOOK_UP}]
            )
            message = answer.choices[0].message
            messages.append(message)
            if not message.tool_calls:
                return message.content
            for wanted in message.tool_calls:
                found = json.loads(wanted.function.arguments).get("day")
                content = price(found) if isinstance(found, int) else "Which day?"
                messages.append({"role": "tool", "tool_call_id": wanted.id, "content": content})


class Prices(AgentEnv):
    """The tasks, what runs the agent, and the reward."""

    def tasks(self, split):
        return [Task(f"Price on day {day}?", answer=price(day)) for day in range(split == "test", 999, 2)]

    async def agent(self, task, base_url, api_key):
        return await agent(task.prompt, base_url, api_key)

    @reward
    def correct(self, episode):
        return float(episode.final_text.strip() == episode.task.answer)

    def expert(self, task, rng):  # only for a model that does not know the form yet
        answer = price(rng.random())
        if rng.random() < 1 / 3:
            [answer] = yield call("look_up", day=int(task.prompt.split()[-1].strip("?")))
        yield say(answer)
