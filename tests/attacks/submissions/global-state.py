"""Changes every global setting of torch and Python and leaves them so, for whoever comes next."""

import torch

get = getattr(torch, "importlib").import_module

warnings = get("warnings")
torch.set_default_dtype(torch.float64)
torch.set_default_device("meta")
torch.set_grad_enabled(False)
torch.set_num_threads(2)
torch.manual_seed(0)
torch.use_deterministic_algorithms(True)
torch.set_printoptions(precision=0)
warnings.simplefilter("ignore")
get("os").environ["PYTHONWARNINGS"] = "ignore"
get("sys").path.insert(0, "{{TREE}}")
get("gc").disable()

{{EMPTY}}
