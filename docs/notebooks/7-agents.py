# %% [markdown]
# # An agent
#
# Beside the chapter [Agents](../agents.md): tools, and the loop. A few lines stand in for the model, so that
# it runs anywhere.

# %%
import re

from scratchlm.agents.loop import run_agent
from scratchlm.agents.model import Reply, ToolCall
from scratchlm.agents.tool import tool

PRICES = {"bread": 3, "cake": 5}


@tool
def price(item: str, pieces: int = 1) -> str:
    """The price of something in the shop.

    Args:
        item: bread or cake
        pieces: how many
    """
    return f"{PRICES[item] * pieces} francs"


print(price.parameters)

# %% [markdown]
# A mistake goes back to the model as text.

# %%
print(price.run({"item": "bread", "pieces": 2}).text)
print(price.run({"pieces": "two"}).text)


# %%
class Shopper:
    name, context = "shopper", 8192

    def count(self, messages, tools=()):  # noqa: ARG002 (a real one counts them, too)
        return sum(len(str(message)) for message in messages)

    def respond(self, messages, tools=(), **_):  # noqa: ARG002
        if messages[-1]["role"] == "tool":
            return Reply(f"It costs {messages[-1]['content']}.")
        (pieces, item) = re.findall(r"(\d+) (\w+)", messages[-1]["content"])[0]
        return Reply("", (ToolCall("", "price", f'{{"item": "{item}", "pieces": {pieces}}}'),))


state = run_agent("What do 3 bread cost?", Shopper(), [price])
print(state.status, "|", state.answer)
