"""Watch a model whose heads lie on several ranks, as one.

`torchrun --nproc-per-node 2 examples/several_ranks.py run.attn`
"""

from __future__ import annotations

import os
import sys
import warnings

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import pellucid
from pellucid.nn import SelfAttention

warnings.filterwarnings("ignore", module="torch.distributed")
if "RANK" in os.environ:  # of torchrun
    dist.init_process_group("gloo")
else:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
mesh = init_device_mesh("cpu", (dist.get_world_size(),))

torch.manual_seed(0)
model = SelfAttention(64, 8, rotary=10_000.0, is_causal=True)
names = ("query_projection", "key_projection", "value_projection")
plan = {name: ColwiseParallel() for name in names} | {"output_projection": RowwiseParallel()}
parallelize_module(model, mesh, plan)

with torch.no_grad(), pellucid.watch(model, keep=True, ranks={"heads": mesh}) as record:
    output = model(torch.randn(1, 100, 64))

whole = record.gather()
own = f"rank {dist.get_rank()} has heads {record[0].head_numbers}, the record of all {whole[0].heads}"
print(f"{own}; the output, {list(output.shape)}, is of norm {float(output.norm()):.3f}")
if len(sys.argv) > 1:
    record.save(sys.argv[1], overwrite=True)
dist.destroy_process_group()
