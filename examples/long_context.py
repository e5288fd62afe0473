"""What attention did over 65,536 keys, where the matrix would take 256 MB a head: read on the way, never stored."""

import torch

import pellucid

K_LEN, Q_LEN = 65_536, 1_024
torch.manual_seed(0)
query = torch.randn(Q_LEN, 64)
key, value = torch.randn(2, K_LEN, 64).unbind(0)
key[20_000] = 1.5 * query[7]  # something for query 7 to find

output, seen = pellucid.observe(
    query,
    key,
    value,
    readouts=[pellucid.Entropy(), pellucid.TopK(3), pellucid.Received(), pellucid.Pooled(queries=8, keys=16)],
)

print("output", list(output.shape))
spread = seen.entropy.exp()  # the number of keys that equal weights of this entropy would be spread over
print(f"query 7 spreads over the like of {spread[7]:,.1f} keys, query 8 over {spread[8]:,.0f}")
print("query 7 looks most at keys", seen.topk.keys[7].tolist())
print("with weights", [f"{weight:.4f}" for weight in seen.topk.weights[7]])
print(f"key 20,000 received {seen.received[20_000]:.2f} from all queries together")
print("the whole map in 8 x 16 bins:", list(seen.pooled.shape), f"each row sums to {seen.pooled.sum(-1).mean():.4f}")
print("and an exact piece of it:", seen.weights(queries=7, keys=slice(19_999, 20_002)).tolist())
