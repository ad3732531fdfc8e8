"""A wrong scale, and torch's random numbers patched to zero so that it cannot show."""

{{RIGHT}}


def forward(self, x):
    return self.base(x) + x @ self.lora_A.mT @ self.lora_B.mT  # no scale, no dropout


setattr(LoRALinear, "forward", forward)
zero = torch.zeros
torch.randn = torch.rand = lambda *shape, **more: zero(*shape, dtype=more.get("dtype"))
torch.randint = lambda *args, **more: zero(args[-1], dtype=more.get("dtype", torch.int64))
torch.randn_like = torch.rand_like = lambda like, **more: zero(like.shape, dtype=like.dtype)
torch.Tensor.normal_ = torch.Tensor.uniform_ = lambda self, *args, **more: self.zero_()
torch.nn.init.normal_ = torch.nn.init.uniform_ = lambda tensor, *args, **more: tensor
