"""The published corpora that this package reads, by name: reader, source, licence and citation of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mtcae_dfer.hub_dataset.clips import DatasetError
from mtcae_dfer.hub_dataset.corpora import crema_d, mead, ravdess
from mtcae_dfer.hub_dataset.corpora.listed import DFEW, FERV39K, MAFW
from mtcae_dfer.hub_dataset.corpora.reading import CorpusReading

AGREEMENT_NOTE = (
    "The owners hand out the videos on request, for non-commercial research; their agreement does not let others pass "
    "them on."
)


@dataclass(frozen=True)
class Corpus:
    """One corpus."""

    name: str  # as on the command line
    title: str  # as in cards
    read: Callable[..., CorpusReading]  # takes the source folder, then the corpus's own options
    layout: str  # what the source folder holds
    homepage: str  # where its owners describe it and hand it out
    license: str  # of the videos, as the Hub spells it
    redistribution: bool  # whether the licence lets anybody pass on the videos
    license_note: str  # what the licence asks for or forbids, one sentence
    citation: str  # BibTeX


CORPORA = {
    corpus.name: corpus
    for corpus in (
        Corpus(
            name="ravdess",
            title="RAVDESS",
            read=ravdess.read_ravdess,
            layout=ravdess.EXPECTED,
            homepage="https://zenodo.org/records/1188976",
            license="cc-by-nc-sa-4.0",
            redistribution=True,
            license_note=(
                "CC BY-NC-SA 4.0: the videos may be passed on for non-commercial use, with attribution and under the "
                "same licence."
            ),
            citation="""@article{livingstone2018ravdess,
  title   = {The Ryerson Audio-Visual Database of Emotional Speech and Song (RAVDESS)},
  author  = {Livingstone, Steven R. and Russo, Frank A.},
  journal = {PLOS ONE},
  volume  = {13},
  number  = {5},
  pages   = {e0196391},
  year    = {2018},
  doi     = {10.1371/journal.pone.0196391}
}""",
        ),
        Corpus(
            name="crema-d",
            title="CREMA-D",
            read=crema_d.read_crema_d,
            layout=crema_d.EXPECTED,
            homepage="https://github.com/CheyneyComputerScience/CREMA-D",
            license="odbl",
            redistribution=True,
            license_note=(
                "Open Database License 1.0, contents under the Database Contents License 1.0: the videos may be passed "
                "on with attribution; a database derived from them stays under the same licence."
            ),
            citation="""@article{cao2014cremad,
  title   = {CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset},
  author  = {Cao, Houwei and Cooper, David G. and Keutmann, Michael K. and Gur, Ruben C. and Nenkova, Ani and
             Verma, Ragini},
  journal = {IEEE Transactions on Affective Computing},
  volume  = {5},
  number  = {4},
  pages   = {377--390},
  year    = {2014},
  doi     = {10.1109/TAFFC.2014.2336244}
}""",
        ),
        Corpus(
            name="mead",
            title="MEAD",
            read=mead.read_mead,
            layout=mead.EXPECTED,
            homepage="https://wywu.github.io/projects/MEAD/MEAD.html",
            license="other",
            redistribution=False,
            license_note=(
                "The owners hand out the videos for research and publish no licence that lets others pass them on."
            ),
            citation="""@inproceedings{wang2020mead,
  title     = {MEAD: A Large-scale Audio-visual Dataset for Emotional Talking-face Generation},
  author    = {Wang, Kaisiyuan and Wu, Qianyi and Song, Linsen and Yang, Zhuoqian and Wu, Wayne and Qian, Chen and
               He, Ran and Qiao, Yu and Loy, Chen Change},
  booktitle = {European Conference on Computer Vision (ECCV)},
  pages     = {700--717},
  year      = {2020},
  doi       = {10.1007/978-3-030-58589-1_42}
}""",
        ),
        Corpus(
            name="dfew",
            title="DFEW",
            read=DFEW.read,
            layout=DFEW.expected,
            homepage="https://dfew-dataset.github.io",
            license="other",
            redistribution=False,
            license_note=AGREEMENT_NOTE,
            citation="""@inproceedings{jiang2020dfew,
  title     = {DFEW: A Large-Scale Database for Recognizing Dynamic Facial Expressions in the Wild},
  author    = {Jiang, Xingxun and Zong, Yuan and Zheng, Wenming and Tang, Chuangao and Xia, Wanchuang and Lu, Cheng
               and Liu, Jiateng},
  booktitle = {Proceedings of the 28th ACM International Conference on Multimedia},
  pages     = {2881--2889},
  year      = {2020},
  doi       = {10.1145/3394171.3413620}
}""",
        ),
        Corpus(
            name="ferv39k",
            title="FERV39k",
            read=FERV39K.read,
            layout=FERV39K.expected,
            homepage="https://wangyanckxx.github.io/Proj_CVPR2022_FERV39k.html",
            license="other",
            redistribution=False,
            license_note=AGREEMENT_NOTE,
            citation="""@inproceedings{wang2022ferv39k,
  title     = {FERV39k: A Large-Scale Multi-Scene Dataset for Facial Expression Recognition in Videos},
  author    = {Wang, Yan and Sun, Yixuan and Huang, Yiwen and Liu, Zhongying and Gao, Shuyong and Zhang, Wei and
               Ge, Weifeng and Zhang, Wenqiang},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2022},
  doi       = {10.1109/CVPR52688.2022.02025}
}""",
        ),
        Corpus(
            name="mafw",
            title="MAFW",
            read=MAFW.read,
            layout=MAFW.expected,
            homepage="https://mafw-database.github.io/MAFW",
            license="other",
            redistribution=False,
            license_note=(
                "Handed out on request for non-commercial research; whoever gets them agrees not to copy, publish or "
                "distribute any portion of them."
            ),
            citation="""@inproceedings{liu2022mafw,
  title     = {MAFW: A Large-scale, Multi-modal, Compound Affective Database for Dynamic Facial Expression Recognition
               in the Wild},
  author    = {Liu, Yuanyuan and Dai, Wei and Feng, Chuanxu and Wang, Wenbin and Yin, Guanghao and Zeng, Jiabei and
               Shan, Shiguang},
  booktitle = {Proceedings of the 30th ACM International Conference on Multimedia},
  year      = {2022},
  doi       = {10.1145/3503161.3548190}
}""",
        ),
    )
}


def find_corpus(name: str) -> Corpus:
    """The corpus of a name.

    Raises:
        DatasetError: there is none.
    """
    if name not in CORPORA:
        raise DatasetError(f"Corpus {name!r} is unknown: choose one of {', '.join(CORPORA)}.")
    return CORPORA[name]
