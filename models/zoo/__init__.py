"""The networks known by name; one module a family holds their topology."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from hwgen.errors import HwgenError
from hwgen.models.zoo.entry import Colours, Entry, Sizes, at_least, multiple_of

if TYPE_CHECKING:
    from rich.table import Table
    from torch import nn

__all__ = ["Entry", "find", "listing", "names"]


def _network(module: str, name: str, *arguments) -> Callable[[], nn.Module]:
    """A class of a family, made when called: torch is slow to import, and not always there."""

    def build() -> nn.Module:
        return getattr(import_module(f"hwgen.models.zoo.{module}"), name)(*arguments)

    return build


def _deploy_repvgg(module: nn.Module) -> nn.Module:
    from hwgen.models.zoo.repvgg import deploy

    return deploy(module)


def _whole(extent: int, last: Callable[[int], int]) -> Callable[[int], bool]:
    """Sizes whose last map, of extent ``last(size)``, pools to ``extent`` by whole factors."""

    def allows(size: int) -> bool:
        have = last(size)
        return have > 0 and (have % extent == 0 or extent % have == 0)

    return allows


def _last_of_alexnet(size: int) -> int:
    """A convolution of 11 with stride 4 and padding 2, then three pools of 3 with stride 2."""
    extent = (size + 4 - 11) // 4 + 1
    for _ in range(3):
        extent = (extent - 3) // 2 + 1
    return extent


def _up_to(most: int) -> Sizes:
    """Texts of 2 to ``most`` tokens."""
    return Sizes(f"between 2 and {most}", lambda size: 2 <= size <= most)


_VGG_SIZES = Sizes(
    "a multiple of 32 whose 32nd part divides 7 or is a multiple of 7",
    lambda size: size % 32 == 0 and _whole(7, lambda s: s // 32)(size),
)
_ALEXNET_SIZES = Sizes(
    "one whose last map has an extent that divides 6 or is a multiple of 6",
    _whole(6, _last_of_alexnet),
)
_IMAGES = at_least(32)

_IMAGENET = (
    {"task": "classify", "classes": 1000},
    Colours((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
)
_COCO = {"task": "detect", "classes": 80}
_V5 = {
    **_COCO,
    "strides": [8, 16, 32],
    "anchors": [
        [[10, 13], [16, 30], [33, 23]],
        [[30, 61], [62, 45], [59, 119]],
        [[116, 90], [156, 198], [373, 326]],
    ],
}
_V3 = {
    **_COCO,
    "strides": [16, 32],
    "anchors": [[[10, 14], [23, 27], [37, 58]], [[81, 82], [135, 169], [344, 319]]],
}
_V8 = {**_COCO, "strides": [8, 16, 32], "bins": 16}
_CARVANA = {"task": "segment", "classes": 2}
_TEXT = {"task": "text"}
_KEYWORDS = {"task": "sound", "classes": 12}
_OF_16 = Sizes("a multiple of 16, at least 32", lambda size: size % 16 == 0 and size >= 32)
_OF_224 = Sizes("224, because its weights are for 196 patches", lambda size: size == 224)
_HALF = Colours((0.5,) * 3, (0.5,) * 3)
_KINETICS = {"task": "video", "classes": 400}, Colours((0.45,) * 3, (0.225,) * 3)

_HEADS_V5 = "3 maps of 3 x (4 box + 1 objectness + 80 classes), strides 8, 16, 32"
_HEADS_V3 = "2 maps of 3 x (4 box + 1 objectness + 80 classes), strides 16, 32"
_HEADS_V8 = "3 maps of 4 sides x 16 bins and 3 of 80 classes, strides 8, 16, 32"
_HEADS_IMAGENET = "1000 class scores"
_HEADS_TEXT = "what stands for each token"
_HEADS_POOLED = f"{_HEADS_TEXT}, and for the text"
_HEADS_KEYWORDS = "12 class scores of a second"
_HEADS_UNET = "map of 2 class scores a pixel"

_ANCHORED = ("head_p3", "head_p4", "head_p5")
_FREE = ("box_p3", "class_p3", "box_p4", "class_p4", "box_p5", "class_p5")
_SCORES = ("scores",)
_HIDDEN = ("hidden",)
_POOLED = ("hidden", "pooled")
_MASK = ("mask",)

_ZOO = {
    entry.name: entry
    for entry in [
        Entry("yolov5n", _network("yolov5", "YoloV5", 0.25, 0.33), _ANCHORED, _HEADS_V5,
              640, multiple_of(32), 1_872_157, 2_234_060_800, _V5),
        Entry("yolov5s", _network("yolov5", "YoloV5", 0.5, 0.33), _ANCHORED, _HEADS_V5,
              640, multiple_of(32), 7_235_389, 8_216_780_800, _V5),
        Entry("yolov8n", _network("yolov8", "YoloV8", 0.25, 0.33), _FREE, _HEADS_V8,
              640, multiple_of(32), 3_157_200, 4_371_456_000, _V8),
        Entry("yolov8s", _network("yolov8", "YoloV8", 0.5, 0.33), _FREE, _HEADS_V8,
              640, multiple_of(32), 11_166_560, 14_300_774_400, _V8),
        Entry("yolov3-tiny", _network("yolov3", "YoloV3Tiny"), _ANCHORED[1:], _HEADS_V3,
              416, multiple_of(32), 8_852_366, 2_782_480_896, _V3),
        Entry("resnet18", _network("resnet", "ResNet", "basic", (2, 2, 2, 2)), _SCORES,
              _HEADS_IMAGENET, 224, _IMAGES, 11_689_512, 1_814_073_344, *_IMAGENET),
        Entry("resnet50", _network("resnet", "ResNet", "bottleneck", (3, 4, 6, 3)), _SCORES,
              _HEADS_IMAGENET, 224, _IMAGES, 25_557_032, 4_089_184_256, *_IMAGENET),
        Entry("mobilenetv2", _network("mobilenet", "MobileNetV2"), _SCORES, _HEADS_IMAGENET,
              224, _IMAGES, 3_504_872, 300_774_272, *_IMAGENET),
        Entry("mobilenetv3-small", _network("mobilenet", "MobileNetV3", "small"), _SCORES,
              _HEADS_IMAGENET, 224, _IMAGES, 2_542_856, 56_510_400, *_IMAGENET),
        Entry("mobilenetv3-large", _network("mobilenet", "MobileNetV3", "large"), _SCORES,
              _HEADS_IMAGENET, 224, _IMAGES, 5_483_032, 216_589_760, *_IMAGENET),
        Entry("vgg11", _network("vgg", "VGG", (1, 1, 2, 2, 2)), _SCORES, _HEADS_IMAGENET,
              224, _VGG_SIZES, 132_863_336, 7_609_090_048, *_IMAGENET),
        Entry("vgg16", _network("vgg", "VGG", (2, 2, 3, 3, 3)), _SCORES, _HEADS_IMAGENET,
              224, _VGG_SIZES, 138_357_544, 15_470_264_320, *_IMAGENET),
        Entry("alexnet", _network("alexnet", "AlexNet"), _SCORES, _HEADS_IMAGENET,
              224, _ALEXNET_SIZES, 61_100_840, 714_188_480, *_IMAGENET),
        Entry("squeezenet", _network("squeezenet", "SqueezeNet"), _SCORES, _HEADS_IMAGENET,
              224, _IMAGES, 1_235_496, 349_151_936, *_IMAGENET),
        # Published: 8.30 M parameters as deployed; the branches of training make it 9.1 M.
        Entry("repvgg-a0",
              _network("repvgg", "RepVGG", (2, 4, 14, 1), (48, 48, 96, 192, 1280)), _SCORES,
              _HEADS_IMAGENET, 224, _IMAGES, 8_309_384, 1_361_451_008, *_IMAGENET,
              deploy=_deploy_repvgg),
        Entry("unet-bilinear", _network("unet", "UNet", True), _MASK, _HEADS_UNET,
              512, multiple_of(16), 17_263_042, 159_937_200_128, _CARVANA),
        Entry("unet-transposed", _network("unet", "UNet", False), _MASK, _HEADS_UNET,
              512, multiple_of(16), 31_037_698, 192_686_325_760, _CARVANA),
        Entry("x3d-m", _network("x3d", "X3D"), _SCORES, "400 class scores of a clip",
              224, _IMAGES, 3_794_274, 4_732_468_736, *_KINETICS, frames=16),
        Entry("deit-tiny", _network("vit", "VisionTransformer", 192, 3), _SCORES, _HEADS_IMAGENET,
              224, _OF_16, 5_717_416, 1_253_683_200, *_IMAGENET, layers=12),
        Entry("deit-small", _network("vit", "VisionTransformer", 384, 6), _SCORES, _HEADS_IMAGENET,
              224, _OF_16, 22_050_664, 4_598_882_304, *_IMAGENET, layers=12),
        Entry("vit-b16", _network("vit", "VisionTransformer", 768, 12), _SCORES, _HEADS_IMAGENET,
              224, _OF_16, 86_567_656, 17_563_828_224, _IMAGENET[0], _HALF, layers=12),
        Entry("mixer-s16", _network("mixer", "Mixer"), _SCORES, _HEADS_IMAGENET,
              224, _OF_224, 18_528_264, 3_776_958_464, _IMAGENET[0], _HALF, layers=8),
        Entry("convnext-tiny", _network("convnext", "ConvNeXt"), _SCORES, _HEADS_IMAGENET,
              224, _IMAGES, 28_589_128, 4_455_531_264, *_IMAGENET, layers=9),
        Entry("swin-tiny", _network("swin", "Swin"), _SCORES, _HEADS_IMAGENET,
              224, multiple_of(224), 28_288_354, 4_490_566_656, *_IMAGENET, layers=6),
        Entry("mobilevit-xxs", _network("mobilevit", "MobileViT"), _SCORES, _HEADS_IMAGENET,
              256, multiple_of(64), 1_272_024, 407_364_096, _IMAGENET[0], layers=4),
        Entry("gpt2", _network("gpt", "GPT2"), _HIDDEN, _HEADS_TEXT,
              128, _up_to(1024), 124_439_808, 11_173_625_856, _TEXT, words=50257, layers=12),
        Entry("opt-125m", _network("gpt", "OPT"), _HIDDEN, _HEADS_TEXT,
              128, _up_to(2048), 125_239_296, 11_173_625_856, _TEXT, words=50272, layers=12),
        Entry("tinyllama-like", _network("llama", "Llama"), _HIDDEN, _HEADS_TEXT,
              128, _up_to(2048), 27_660_800, 1_509_949_440, _TEXT, words=32000, layers=4),
        Entry("bert-mini", _network("bert", "Bert", 256, 4, 4), _POOLED,
              _HEADS_POOLED, 128, _up_to(512), 11_170_560, 436_273_152, _TEXT,
              words=30522, layers=4),
        Entry("minilm-l6", _network("bert", "Bert", 384, 12, 6), _POOLED,
              _HEADS_POOLED, 128, _up_to(512), 22_713_216, 1_434_599_424, _TEXT,
              words=30522, layers=6),
        # The authors' cells have one bias per gate: 62,316 and 198,762 parameters.
        Entry("kws-lstm", _network("keywords", "Keywords", "LSTM", 118), _SCORES, _HEADS_KEYWORDS,
              49, at_least(2), 62_788, 2_961_800, _KEYWORDS, features=10),
        Entry("kws-gru", _network("keywords", "Keywords", "GRU", 250), _SCORES, _HEADS_KEYWORDS,
              49, at_least(2), 199_512, 9_558_000, _KEYWORDS, features=10),
        # Keras counts 78,666, with the running statistics of the normalisations.
        Entry("resnet8", _network("resnet", "ResNet8"), _SCORES, "10 class scores",
              32, multiple_of(4), 78_186, 12_501_632, {"task": "classify", "classes": 10}),
    ]
}


def names() -> list[str]:
    """Names of the networks."""
    return list(_ZOO)


def find(name: str) -> Entry:
    """The network called ``name``.

    Raises
    ------
    :exc:`HwgenError`
        If there is none.
    """
    if name not in _ZOO:
        raise HwgenError(
            f"Model {name!r} is unknown: give one of {', '.join(_ZOO)}, or the path of an .onnx "
            f"file"
        )
    return _ZOO[name]


def listing() -> Table:
    """All networks as a table to print."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("task", no_wrap=True)
    for name in ("MACs", "parameters", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("heads")
    for entry in _ZOO.values():
        table.add_row(entry.name, entry.task, f"{entry.macs / 1e6:,.1f} M",
                      f"{entry.parameters / 1e6:,.2f} M", entry.extents(entry.size),
                      # Cut off rather than wrapped: one line a network.
                      Text(entry.heads, no_wrap=True, overflow="ellipsis"))
    return table
