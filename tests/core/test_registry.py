"""The registry: names without imports, defaults from signatures, errors that suggest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from allround.core import families, registry
from allround.core.declarations import DECLARATIONS
from allround.core.entry import Entry
from allround.core.errors import AllroundError

#: Titles of the papers that allround is made from, as the papers write them.
PAPERS = (
    "Task-aware Retrieval with Instructions",
    "A Unified Generative Retriever for Knowledge-Intensive Language Tasks via Prompt Learning",
    "Semantic IDs for Joint Generative Search and Recommendation",
    "One Embedder, Any Task: Instruction-Finetuned Text Embeddings",
    "Retrieve Anything To Augment Large Language Models",
    "Pre-training Multi-task Contrastive Learning Models for Scientific Literature Understanding",
    "N-LTP: An Open-source Neural Language Technology Platform for Chinese",
    "Unified Work Embeddings: Contrastive Learning of a Bidirectional Multi-task Ranker",
    "Performance-aware Approximation of Global Channel Pruning for Multitask CNNs",
    "BenTo: Benchmark Task Reduction with In-Context Transferability",
    "Establishing Task Scaling Laws via Compute-Efficient Model Ladders",
    "An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction",
    "Hierarchical Prompting Taxonomy: A Universal Evaluation Framework for Large Language Models",
    "Law of the Weakest Link: Cross Capabilities of Large Language Models",
    "What Did I Do Wrong? Quantifying LLMs' Sensitivity and Consistency to Prompt Engineering",
    "MMLU-CF: A Contamination-free Multi-task Language Understanding Benchmark",
    "Power Hungry Processing: Watts Driving the Cost of AI Deployment?",
    "RAFT: A Real-World Few-Shot Text Classification Benchmark",
    "MUSCLE: A Model Update Strategy for Compatible LLM Evolution",
    "Scalable Attentive Sentence-Pair Modeling via Distilled Sentence Embedding",
    "Trans-Encoder: Unsupervised sentence-pair modelling through self- and mutual-distillations",
    "TartuNLP at SemEval-2025 Task 5: Subject Tagging as Two-Stage Information Retrieval",
    "How Predictable Are Large Language Model Capabilities? A Case Study on BIG-bench",
    "Continual Task Allocation in Meta-Policy Network via Sparse Prompting",
    "Domain Incremental Lifelong Learning in an Open World",
    "Continual Learning with Adaptive Weights (CLAW)",
    "Few-Shot Class-Incremental Learning by Sampling Multi-Phase Tasks",
    "TAME: Task Agnostic Continual Learning using Multiple Experts",
    "IBCL: Zero-shot Model Generation for Task Trade-offs in Continual Learning",
    "Towards Robust and Efficient Continual Language Learning",
    "Exploring Continual Learning for Code Generation Models",
    "Less is more: Summarizing Patch Tokens for efficient Multi-Label Class-Incremental Learning",
    "OVOR: OnePrompt with Virtual Outlier Regularization for Rehearsal-Free Class-Incremental Learning",
    "Class Incremental Learning via Likelihood Ratio Based Task Prediction",
    "A Method for Discovering Novel Classes in Tabular Data",
    "Découvrir de nouvelles classes dans des données tabulaires",
    "A Practical Approach to Novel Class Discovery in Tabular Data",
    "Novel Class Discovery: an Introduction and Key Concepts",
    "Divide and not forget: Ensemble of selectively trained experts in Continual Learning",
    'Model Zoo: A Growing "Brain" That Learns Continually',
    "Multi-Task Structural Learning using Local Task Similarity induced Neuron Creation and Removal",
    "Overcoming catastrophic forgetting in neural networks",
    "Learning without Forgetting",
    "Neural Weight Search for Scalable Task Incremental Learning",
    "Center Loss Regularization for Continual Learning",
    "TAG: Task-based Accumulated Gradients for Lifelong learning",
    "Incremental Task Learning with Incremental Rank Updates",
    "A Theoretical Analysis of Catastrophic Forgetting through the NTK Overlap Matrix",
    "Coverage-based Example Selection for In-Context Learning",
    "Language Models can Exploit Cross-Task In-context Learning for Data-Scarce Novel Tasks",
    "Unified Demonstration Retriever for In-Context Learning",
    "Robust-Multi-Task Gradient Boosting",
    "12-in-1: Multi-Task Vision and Language Representation Learning",
    "A Hierarchical Multi-task Approach for Learning Embeddings from Semantic Tasks",
    "A picture of the space of typical learnable tasks",
    "ATM: Improving Model Merging by Alternating Tuning and Merging",
    "AdaMerging: Adaptive Model Merging for Multi-Task Learning",
    "AdaRank: Adaptive Rank Pruning for Enhanced Model Merging",
    "AdaTT: Adaptive Task-to-Task Fusion Network for Multitask Learning in Recommendations",
    "AdapterFusion: Non-Destructive Task Composition for Transfer Learning",
    "An Efficient General-Purpose Modular Vision Model via Multi-Task Heterogeneous Training",
    "Awaker2.5-VL: Stably Scaling MLLMs with Parameter-Efficient Mixture of Experts",
    "Cappy: Outperforming and Boosting Large Multi-Task LMs with a Small Scorer",
    "ColD Fusion: Collaborative Descent for Distributed Multitask Finetuning",
    "Concrete Subspace Learning based Interference Elimination for Multi-task Model Fusion",
    "Cross-Task Generalization via Natural Language Crowdsourcing Instructions",
    "Customizable Combination of Parameter-Efficient Modules for Multi-Task Learning",
    "DivMerge: A divergence-based model merging method for multi-tasking",
    "Divergence-Based Domain Transferability for Zero-Shot Classification",
    "Editing Models with Task Arithmetic",
    "Eliciting and Understanding Cross-Task Skills with Task-Level Mixture-of-Experts",
    "Exploring the Benefits of Training Expert Language Models over Instruction Tuning",
    "ForkMerge: Mitigating Negative Transfer in Auxiliary-Task Learning",
    "How does Multi-Task Training Affect Transformer In-Context Capabilities? Investigations with Function Classes",
    "Improving General Text Embedding Model: Tackling Task Conflict and Data Imbalance through Model Merging",
    "Knowledge Composition using Task Vectors with Learned Anisotropic Scaling",
    "Learning to Branch for Multi-Task Learning",
    "Learning to Generate Task-Specific Adapters from Task Description",
    "Less is More: Parameter-Efficient Selection of Intermediate Tasks for Transfer Learning",
    "Localizing Task Information for Improved Model Merging and Compression",
    "MFTCoder: Boosting Code LLMs with Multitask Fine-Tuning",
    "M^3ViT: Mixture-of-Experts Vision Transformer for Efficient Multi-task Learning with Model-Accelerator Co-design",
    "Merging Multi-Task Models via Weight-Ensembling Mixture of Experts",
    "Merging Smarter, Generalizing Better: Enhancing Model Merging on OOD Data",
    "Merging by Matching Models in Task Subspaces",
    "MetaGPT: Merging Large Language Models Using Model Exclusive Task Arithmetic",
    "Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks",
    "Multi-Head Adapter Routing for Cross-Task Generalization",
    "Multi-Task Reinforcement Learning with Mixture of Orthogonal Experts",
    "MultiTab: A Scalable Foundation for Multitask Learning on Tabular Data",
    "Multitask Prompted Training Enables Zero-Shot Task Generalization",
    "Muppet: Massive Multi-task Representations with Pre-Finetuning",
    "NNOSE: Nearest Neighbor Occupational Skill Extraction",
    "No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces",
    "On Giant's Shoulders: Effortless Weak to Strong by Dynamic Logits Fusion",
    "Order Matters in the Presence of Dataset Imbalance for Multilingual Learning",
    "Parameter Competition Balancing for Model Merging",
    "Parameter-efficient Multi-task Fine-tuning for Transformers via Shared Hypernetworks",
    "Rep-MTL: Unleashing the Power of Representation-level Task Saliency for Multi-Task Learning",
    "Resolving Interference When Merging Models",
    "SMART: Submodular Data Mixture Strategy for Instruction Tuning",
    "SPT: Semi-Parametric Prompt Tuning for Multitask Prompted Learning",
    "STG-MTL: Scalable Task Grouping for Multi-Task Learning Using Data Map",
    "SUPERMERGE: An Approach For Gradient-Based Model Merging",
    "ScaLearn: Simple and Highly Parameter-Efficient Task Transfer by Learning to Scale",
    "Sparsely Activated Mixture-of-Experts are Robust Multi-Task Learners",
    "Super-NaturalInstructions: Generalization via Declarative Instructions on 1600+ NLP Tasks",
    "Task Adaptive Parameter Sharing for Multi-Task Learning",
    "TaskWeb: Selecting Better Source Tasks for Multi-task NLP",
    "Task Arithmetic Through The Lens Of One-Shot Federated Learning",
    "TaskExpert: Dynamically Assembling Multi-Task Representations with Memorial Mixture-of-Experts",
    "Tint Your Models Task-wise for Improved Multi-task Model Merging",
    "Towards Modular LLMs by Building and Reusing a Library of LoRAs",
    "Towards Unified Task Embeddings Across Multiple Models: Bridging the Gap for Prompt-Based Large Language Models "
    "and Beyond",
    "Tryage: Real-time, intelligent Routing of User Prompts to Large Language Models",
    "Twin-Merging: Dynamic Integration of Modular Expertise in Model Merging",
    "Understanding and Improving Information Transfer in Multi-Task Learning",
    "Uni-Perceiver v2: A Generalist Model for Large-Scale Vision and Vision-Language Tasks",
    "Uni-Perceiver-MoE: Learning Sparse Generalist Models with Conditional MoEs",
    "What to Pre-Train on? Efficient Intermediate Task Selection",
    "ZipIt! Merging Models from Different Tasks without Training",
    "tasksource: Structured Dataset Preprocessing Annotations for Frictionless Extreme Multi-Task Learning and "
    "Evaluation",
)
ENTRIES = [(e.family, e.name) for e in registry.entries()]


def test_listing_imports_neither_torch_nor_methods() -> None:
    code = (
        "import sys\n"
        "from allround.core import registry\n"
        "assert registry.names('merge') and registry.entries()\n"
        "assert registry.find('merge', 'ties').resolve({'keep': 0.5})\n"
        "heavy = {'torch', 'numpy', 'transformers', 'sklearn', 'datasets'} & set(sys.modules)\n"
        "methods = [m for m in sys.modules if m.startswith('allround.merging')]\n"
        "assert not heavy and not methods, (heavy, methods)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(("family", "name"), ENTRIES)
def test_every_method_reads_and_loads(family: str, name: str) -> None:
    entry = registry.find(family, name)
    assert (entry.name, entry.family, entry.room) == (name, family, families.FAMILIES[family].partition("/")[0])
    assert entry.summary.endswith((".", ";")) or entry.summary, f"{name} has no first line"
    assert entry.source.strip()
    for title in entry.papers:
        assert title in PAPERS, f"{name}: no paper of allround is called '{title}'"
    loaded = entry.load()
    assert loaded.__name__ == entry.attribute
    assert loaded._method["source"] == entry.source, "what is read from the text is what the decorator says"
    for parameter in entry.parameters:
        for value in (*parameter.search, *([] if parameter.required else [parameter.default])):
            assert entry.resolve({**_required(entry), parameter.name: value})[parameter.name] == value


def _required(entry: Entry) -> dict[str, object]:
    values = {"int": 1, "float": 1.0, "str": "x", "bool": True}
    return {p.name: values.get(p.type, object()) for p in entry.parameters if p.required}


def test_every_family_has_methods() -> None:
    assert {family for family, _ in ENTRIES} == set(families.FAMILIES)


def test_papers_are_claimed() -> None:
    assert {title for e in registry.entries() for title in e.papers} == set(PAPERS)


def test_defaults_and_search_come_from_the_signature() -> None:
    entry = registry.find("merge", "ties")
    assert entry.defaults == {"keep": 0.2, "scale": 1.0, "weights": 1.0, "normalize": True}
    assert entry.resolve({"keep": 1}) == {**entry.defaults, "keep": 1}
    assert {p.name: p.search for p in entry.parameters}["keep"] == (0.1, 0.2, 0.4, 0.7)
    types = {"keep": "Each", "scale": "float", "weights": "Each", "normalize": "bool"}
    assert {p.name: p.type for p in entry.parameters} == types, "what the machinery gives is no parameter"


@pytest.mark.parametrize("family", list(families.FAMILIES))
def test_an_unknown_name_is_answered_with_the_nearest(family: str) -> None:
    known = registry.names(family)[0]
    with pytest.raises(AllroundError) as caught:
        registry.find(family, f"{known}x")
    assert f"did you mean '{known}'" in caught.value.do
    for hostile in ("../methods/ties", "__init__", "", "a/b"):
        with pytest.raises(AllroundError, match="there is no"):
            registry.find(family, hostile)


def test_an_unknown_parameter_is_answered_with_the_nearest() -> None:
    with pytest.raises(AllroundError) as caught:
        registry.find("merge", "ties").resolve({"keeps": 0.5})
    assert "no parameter 'keeps'" in caught.value.found
    assert "did you mean 'keep'" in caught.value.do
    with pytest.raises(AllroundError, match="use one of: normalize, weights"):
        registry.find("merge", "average").resolve({"scale": 0.5})


@pytest.mark.parametrize("name", ["keep", "scale"])
@pytest.mark.parametrize("value", ["0.5", None, True, {"a": 1}])
def test_a_wrong_type_is_refused(name: str, value: object) -> None:
    with pytest.raises(AllroundError) as caught:
        registry.find("merge", "ties").resolve({name: value})
    assert repr(value) in caught.value.asked
    assert "give a float, such as" in caught.value.do


def test_one_number_for_each_model_where_the_signature_says_so() -> None:
    entry = registry.find("merge", "ties")
    assert entry.resolve({"keep": [0.5, 0.2]})["keep"] == [0.5, 0.2]
    for name, value in {"keep": [0.5, "x"], "scale": [0.5]}.items():
        with pytest.raises(AllroundError, match="give a float"):
            entry.resolve({name: value})


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A family of its own, in an empty folder."""
    (tmp_path / "odd").mkdir()
    monkeypatch.setattr(families, "PACKAGE", tmp_path)
    monkeypatch.setattr(families, "FAMILIES", {"metric": "odd"})
    return tmp_path / "odd"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "def other():\n    pass\n",
        "def wrong():\n    pass\n",
        "@method\ndef wrong():\n    pass\n",
        "@decorated(source='x')\nclass Wrong:\n    pass\n",
    ],
)
def test_a_file_without_a_marked_function_is_an_error(family: Path, text: str) -> None:
    (family / "wrong.py").write_text(text)
    assert registry.names("metric") == ["wrong"]
    with pytest.raises(AllroundError) as caught:
        registry.find("metric", "wrong")
    assert "wrong.py" in caught.value.asked
    assert "function 'wrong' or class 'Wrong'" in caught.value.found
    assert "start the file name with '_'" in caught.value.do


#: A decorator that each family accepts.
RIGHT = {
    "metric": "@method(source='x', kinds=('x',), better='lower')",
    "kind": "@method(source='x')",
    "balance": "@method(source='x', by='losses')",
    "merge": "@method(source='x')",
}


@pytest.mark.parametrize(
    ("kind_of", "text", "found", "do"),
    [
        ("metric", "def wrong(:", "not valid Python", "correct the file"),
        ("metric", "x = '\0'", "not valid Python", "correct the file"),
        ("metric", "@method(source=SOURCE)\ndef wrong(): ...", "not a literal", "give literals"),
        ("metric", "@method(source='x')\ndef wrong(*, a=f()): ...", "not a literal", "give literals"),
        ("metric", "@method('x')\ndef wrong(): ...", "without a keyword", "source=..."),
        ("metric", "@method(**all)\ndef wrong(): ...", "without a keyword", "source=..."),
        ("metric", "@method(kinds=('x',), better='lower')\ndef wrong(): ...", "has no source", "declarations"),
        ("metric", "@method(source='x', kinds=('x',))\ndef wrong(): ...", "has no better", "declarations"),
        ("metric", "@method(source='x', kinds=('x',), better='less')\ndef wrong(): ...", "'higher' or 'lower'", ""),
        ("metric", "@method(source='x', kinds=('x',), better='lower', beter=1)\ndef wrong(): ...", "beter", "'better'"),
        ("metric", "@method(source='x', kinds='x', better='lower')\ndef wrong(): ...", "kinds=", "declarations"),
        ("kind", "@method(source='x', needs=('y',))\nclass Wrong: ...", "needs=", "declarations"),
        ("balance", "@method(source='x')\nclass Wrong: ...", "has no by", "declarations"),
        ("balance", "@method(source='x', by='loss')\nclass Wrong: ...", "by=", "declarations"),
        ("balance", "@method(source='x', by='losses', needs=('gram',))\nclass Wrong: ...", "needs=", "declarations"),
        ("balance", "@method(source='x', by='losses', exempt={'a': ''})\nclass Wrong: ...", "exempt=", "declarations"),
        ("merge", "@method(source='x', needs=('grams',))\ndef wrong(): ...", "no statistic 'grams'", "declarations"),
        ("merge", "@method(source='x', block='elements')\ndef wrong(): ...", "block=", "declarations"),
        ("merge", "@method(source='x', build=1)\ndef wrong(): ...", "build=", "declarations"),
    ],
)
def test_a_wrong_declaration_is_an_error_that_names_the_file(
    family: Path, monkeypatch: pytest.MonkeyPatch, kind_of: str, text: str, found: str, do: str
) -> None:
    monkeypatch.setattr(families, "FAMILIES", {kind_of: "odd", "statistic": "none"})
    (family / "wrong.py").write_text(text)
    (family / "right.py").write_text(f'"Right."\n{RIGHT[kind_of]}\ndef right(): ...\n')
    with pytest.raises(AllroundError) as caught:
        registry.find(kind_of, "wrong")
    assert str(family / "wrong.py") in caught.value.asked
    assert found in caught.value.found and do in caught.value.do, str(caught.value)
    assert registry.find(kind_of, "right").summary == "Right.", "another file of the family is read all the same"


def test_every_family_says_what_may_be_declared() -> None:
    assert set(DECLARATIONS) == set(families.FAMILIES)


def test_functions_and_classes_are_found_and_private_files_are_not(family: Path) -> None:
    (family / "_shared.py").write_text("x = 1\n")
    (family / "one_thing.py").write_text(
        '"""One thing\nin two lines.\n\nMore."""\n'
        "@method(source='a book', kinds=('some',), better='lower')\n"
        "class OneThing:\n"
        "    def __init__(self, x, *, must: int, may: 'Annotated[float, Search(1, 2)]' = 3): ...\n"
    )
    (family / "another.py").write_text(f'"Another."\n{RIGHT["metric"]}\ndef another(): ...\n')
    assert registry.names("metric") == ["another", "one_thing"]
    entry = registry.find("metric", "one_thing")
    assert (entry.attribute, entry.module, entry.summary) == (
        "OneThing",
        "allround.odd.one_thing",
        "One thing in two lines.",
    )
    assert entry.facts == {"kinds": ("some",), "better": "lower"}
    asks_for_nothing = {"whole": False, "report": False}
    assert registry.find("metric", "another").facts == {"kinds": ("x",), "better": "lower", **asks_for_nothing}
    with pytest.raises(AllroundError, match="no value for must"):
        entry.resolve({})
    assert entry.resolve({"must": 1}) == {"must": 1, "may": 3}


def test_a_changed_file_is_read_anew(family: Path) -> None:
    import os

    file = family / "one.py"
    for number in (1, 2):
        decorator = RIGHT["metric"].replace("'x'", f"'book {number}'", 1)
        file.write_text(f'"One."\n{decorator}\ndef one(): ...\n')
        os.utime(file, (number, number))
        assert registry.find("metric", "one").source == f"book {number}"
