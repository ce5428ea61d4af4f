"""What a process without this package does with a model folder and a clip; it prints one line of JSON."""

LOAD = """
import importlib.abc, json, sys

class PackageIsNotInstalled(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] == "mtcae_dfer":
            raise ModuleNotFoundError(f"{fullname} is not installed")

sys.meta_path.insert(0, PackageIsNotInstalled())
import torch
from transformers import AutoModel, AutoModelForVideoClassification, AutoVideoProcessor, pipeline

torch.set_num_threads(1)
folder, clip = sys.argv[1:]
inputs = AutoVideoProcessor.from_pretrained(folder, trust_remote_code=True)(clip)["pixel_values"]
logits = []
for auto_class in (AutoModel, AutoModelForVideoClassification):
    model = auto_class.from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        logits.append(model(inputs).logits[0].tolist())
best = pipeline("video-classification", model=folder, trust_remote_code=True)(clip, top_k=1)
print(json.dumps({"logits": logits, "best": best[0]["label"]}))
"""
