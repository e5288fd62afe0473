"""OpenVINO's scaled_dot_product_attention: in float32, or in bfloat16 by its own precision hint."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.contenders.contract import Answer, Ready, UnableError
from benchmarks.task import Task, with_groups_as_queries

NAME = "OpenVINO"
PACKAGES = ("openvino",)


def prepare(task: Task) -> Ready:
    if not task.is_plain or task.dtype not in (torch.float32, torch.bfloat16):
        raise UnableError("is run in float32 and bfloat16, full or causal")
    call = with_groups_as_queries(task.call) if task.call.enable_gqa else task.call
    arrays = [_array(tensor) for tensor in (call.query, call.key, call.value)]  # must outlive the request
    request = _request(call.query.shape, call.key.shape, task.dtype, call.is_causal)
    for index, array in enumerate(arrays):
        request.set_input_tensor(index, _shared(array, task.dtype))

    def run() -> Any:
        request.infer()
        return arrays  # kept alive by the closure

    def answer(_: Any) -> Answer:
        data = request.get_output_tensor(0).data
        bits = torch.from_numpy(data.view(np.int16).copy() if task.dtype == torch.bfloat16 else data.copy())
        return Answer(bits.view(task.dtype).view(task.output_shape))

    return Ready(run, answer)


def _array(tensor: Tensor) -> np.ndarray:
    """The tensor's numbers; numpy has no bfloat16, so its bits."""
    plain = tensor.contiguous()
    return plain.view(torch.int16).numpy() if tensor.dtype == torch.bfloat16 else plain.numpy()


def _shared(array: np.ndarray, dtype: torch.dtype) -> Any:
    import openvino

    if dtype == torch.float32:
        return openvino.Tensor(array, shared_memory=True)
    return openvino.Tensor(array, openvino.Shape(list(array.shape)), openvino.Type.bf16)


def _request(query: torch.Size, key: torch.Size, dtype: torch.dtype, is_causal: bool) -> Any:
    import openvino
    from openvino import opset13

    type_ = openvino.Type.f32 if dtype == torch.float32 else openvino.Type.bf16
    inputs = [opset13.parameter(list(shape), type_) for shape in (query, key, key)]
    model = openvino.Model([opset13.scaled_dot_product_attention(*inputs, causal=is_causal)], inputs)
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32" if dtype == torch.float32 else "bf16",
    }
    return openvino.Core().compile_model(model, "CPU", options).create_infer_request()
