# %% [markdown]
# # Answers with their source
#
# Beside the chapter [Retrieval](../retrieval.md). It needs `scratchlm models pull all-minilm-l6-v2`.

# %%
import tempfile
from pathlib import Path

from scratchlm.retrieval import Embedder
from scratchlm.retrieval.answers import Answerer
from scratchlm.retrieval.folders import Folder
from scratchlm.retrieval.index import Index
from scratchlm.retrieval.search import Searcher

folder = Path(tempfile.mkdtemp())
(folder / "texts").mkdir()
text = "The Halden bridge was opened on 3 May 1931. Karl Osterberg designed it.\n"
(folder / "texts" / "bridge.md").write_text(text, encoding="utf-8")

# %%
embedder = Embedder.open("all-minilm-l6-v2")
index = Index.create(folder / "index", embedder)
index.update(Folder(folder / "texts"))
answerer = Answerer(Searcher(index, embedder), embedder)

# %%
for question in ("Who designed the bridge?", "Who owns the ferry?"):
    answer = answerer.ask(question)
    print(answer.text, [one.place() for sentence in answer.sentences for one in sentence.citations])
