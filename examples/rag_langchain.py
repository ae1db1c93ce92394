"""Chapter "LangChain": a question answered from texts with LangChain's parts, all of them ours, on this machine.

    pip install 'scratchlm[langchain]'
    scratchlm models pull smollm2-135m-instruct
    scratchlm models pull all-minilm-l6-v2
    python examples/rag_langchain.py

Nothing is fetched by the script itself.
"""

import tempfile

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough

from scratchlm.integrations.langchain import (
    ChatScratchlm,
    LangChainSearcher,
    ScratchlmEmbeddings,
    ScratchlmVectorStore,
)

TEXTS = {
    "bridge.md": "The Halden bridge was opened in 1931. It was designed by Ada Lund.",
    "ferry.md": "Until the bridge was there, a ferry crossed the river six times a day.",
    "mill.md": "The old mill at Tolsby grinds oats and barley. It was restored in 1988.",
}
QUESTION = "When was the Halden bridge opened?"

with tempfile.TemporaryDirectory() as folder:
    # The store is on disk: the next run finds it there, and refuses the vectors of another model.
    store = ScratchlmVectorStore(ScratchlmEmbeddings("all-minilm-l6-v2"), folder)
    store.add_texts(list(TEXTS.values()), [{"source": name} for name in TEXTS], ids=list(TEXTS))
    for document, score in store.similarity_search_with_score(QUESTION, k=2):
        print(f"{score:.2f}  {document.metadata['source']}: {document.page_content}")

    # LangChain's way from a question to an answer.
    prompt = ChatPromptTemplate.from_template("{context}\n\nAnswer in one short sentence: {question}")
    retriever = store.as_retriever(search_kwargs={"k": 1})
    model = ChatScratchlm(model="smollm2-135m-instruct", temperature=0, max_tokens=40)
    context = retriever | (lambda documents: "\n".join(one.page_content for one in documents))
    chain = {"context": context, "question": RunnablePassthrough()} | prompt | model | StrOutputParser()
    for piece in chain.stream(QUESTION):
        print(piece, end="", flush=True)
    print()

    # Several questions at once are computed side by side.
    questions = ["Who designed the Halden bridge?", "When was the mill restored?"]
    for question, answer in zip(questions, chain.batch(questions), strict=True):
        print(f"{question} {answer}")

    # And the other way: what LangChain retrieves, as the passages that our own answers cite.
    (hit,) = LangChainSearcher(retriever).search(QUESTION, k=1).hits
    print(f"{hit.place()}: characters {hit.start} to {hit.end}")
