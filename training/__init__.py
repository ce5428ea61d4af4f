"""Training and testing one model: the scripts `run`, `pretrain` and `run_mtl_er`, and what they are made of."""
