"""ONNX Runtime's contributed operator MultiHeadAttention on its CPU provider, in its own layout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders.contract import Answer, Ready, UnableError
from benchmarks.task import Task, with_groups_as_queries

NAME = "ONNX Runtime"
PACKAGES = ("onnxruntime", "onnx")
NAMES = ("query", "key", "value")


def prepare(task: Task) -> Ready:
    import onnxruntime

    if not task.is_plain or task.dtype != torch.float32:
        raise UnableError("is run in float32 alone, full or causal")
    call = with_groups_as_queries(task.call) if task.call.enable_gqa else task.call
    batch, heads, q_len, dim = call.query.shape
    session = _session(heads, call.is_causal)
    tensors = zip(NAMES, (call.query, call.key, call.value), strict=True)
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(_packed(tensor).numpy()) for name, tensor in tensors}

    def answer(result: Any) -> Answer:
        output = torch.from_numpy(result.numpy()).view(batch, q_len, heads, dim).transpose(1, 2)
        return Answer(output.reshape(task.output_shape))

    return Ready(lambda: session.run_with_ort_values(["output"], values)[0], answer)


def _packed(tensor: Tensor) -> Tensor:
    """[batch, heads, length, dim] as the operator's [batch, length, heads * dim]."""
    return tensor.transpose(1, 2).flatten(2).contiguous()


def _session(heads: int, is_causal: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # Its threads would go on turning, waiting for more, while others are timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(_model(heads, is_causal), options, providers=["CPUExecutionProvider"])


def _model(heads: int, is_causal: bool) -> bytes:
    from onnx import TensorProto, helper

    attention = helper.make_node(
        "MultiHeadAttention",
        NAMES,
        ["output"],
        domain="com.microsoft",
        num_heads=heads,
        unidirectional=int(is_causal),
    )
    told = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 3) for name in (*NAMES, "output")]
    graph = helper.make_graph([attention], "attention", told[:3], told[3:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 9
    return model.SerializeToString()
