"""Refiner: a small U-Net that corrects the logits of a network before it.

    windows, first logits, atlas -> U-Net -> correction --(+)--> logits
                     |____________________________________|

It begins as the identity: the last layer's weights start at 0. The first stage of the U-Net convolves in
plane alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ichnos.networks.unet import ResidualUNet, Size


class Refiner(nn.Module):
    """`first_logits` is the channel at which the logits to be corrected begin; they are given in units of
    `logit_unit`.

    >>> import torch
    >>> shape = {"features_per_stage": [4, 8], "kernel_sizes": 3, "strides": [1, 2]}
    >>> network = Refiner(5, 2, first_logits=1, logit_unit=4.0, **shape)
    >>> image = torch.randn(1, 5, 8, 8, 8)
    >>> bool((network(image) == 4 * image[:, 1:3]).all())
    True
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        first_logits: int,
        logit_unit: float,
        features_per_stage: Sequence[int],
        kernel_sizes: Size | Sequence[Size],
        strides: Sequence[Size],
        n_conv_per_stage: Size = 1,
        n_conv_per_stage_decoder: Size = 1,
    ) -> None:
        super().__init__()
        self.first_logits, self.logit_unit, self.num_classes = first_logits, logit_unit, num_classes
        self.body = ResidualUNet(
            input_channels,
            num_classes,
            features_per_stage=features_per_stage,
            kernel_sizes=kernel_sizes,
            strides=strides,
            n_conv_per_stage=n_conv_per_stage,
            n_conv_per_stage_decoder=n_conv_per_stage_decoder,
        )
        for parameter in self.body.decoder.seg_layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, image: Tensor) -> Tensor:
        said = image[:, self.first_logits : self.first_logits + self.num_classes]
        correction = self.body(image)
        assert isinstance(correction, Tensor)
        return self.logit_unit * said + correction
