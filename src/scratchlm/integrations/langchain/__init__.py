"""scratchlm in LangChain: its chat models, vectors, store, search and tools as LangChain's classes, and LangChain's
retrievers and tools as ours.

    from scratchlm.integrations.langchain import ChatScratchlm

    print(ChatScratchlm(model="smollm2-135m-instruct").invoke("What is the capital of France?").content)

Nothing here fetches a model or calls a server. The import raises
:class:`~scratchlm.integrations.missing.MissingExtra` where langchain-core is not installed.
"""

from scratchlm.integrations.missing import need

need("langchain", "langchain_core")

from scratchlm.integrations.langchain.chat import ChatScratchlm  # noqa: E402
from scratchlm.integrations.langchain.embeddings import ScratchlmEmbeddings  # noqa: E402
from scratchlm.integrations.langchain.retrieval import LangChainSearcher, ScratchlmRetriever  # noqa: E402
from scratchlm.integrations.langchain.tool_bridge import from_langchain, to_langchain  # noqa: E402
from scratchlm.integrations.langchain.vector_store import ScratchlmVectorStore  # noqa: E402

__all__ = [
    "ChatScratchlm",
    "LangChainSearcher",
    "ScratchlmEmbeddings",
    "ScratchlmRetriever",
    "ScratchlmVectorStore",
    "from_langchain",
    "to_langchain",
]
