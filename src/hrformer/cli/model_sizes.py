"""Sizes of the named models, measured once by ``hrformer.cli.complexity.measure``; a test measures them again."""

from __future__ import annotations

from collections.abc import Mapping

from hrformer.models.model import Task

MEASURED: Mapping[tuple[str, Task], tuple[int, int]] = {
    ("hrformer_nano", "classification"): (6_889_894, 1_370_805_670),
    ("hrformer_nano", "pose"): (1_378_833, 1_110_591_888),
    ("hrformer_nano", "segmentation"): (5_123_908, 63_154_461_940),
    ("hrformer_tiny", "classification"): (8_035_820, 1_708_032_196),
    ("hrformer_tiny", "pose"): (2_524_759, 1_485_305_088),
    ("hrformer_tiny", "segmentation"): (6_269_834, 65_103_045_460),
    ("hrformer_small", "classification"): (13_544_882, 3_364_326_080),
    ("hrformer_small", "pose"): (7_746_779, 3_244_958_464),
    ("hrformer_small", "segmentation"): (13_523_856, 107_114_854_688),
    ("hrformer_base", "classification"): (50_320_098, 13_308_176_164),
    ("hrformer_base", "pose"): (43_211_777, 13_906_995_600),
    ("hrformer_base", "segmentation"): (56_032_512, 271_050_467_830),
    ("hrformer_tiny_window13", "classification"): (8_085_068, 2_521_954_324),
    ("hrformer_tiny_window13", "pose"): (2_574_007, 1_888_935_648),
    ("hrformer_tiny_window13", "segmentation"): (6_319_082, 66_847_426_180),
    ("hrformer_tiny_window15", "classification"): (8_108_396, 2_326_800_484),
    ("hrformer_tiny_window15", "pose"): (2_597_335, 2_363_034_336),
    ("hrformer_tiny_window15", "segmentation"): (6_342_410, 68_535_788_596),
    ("hrformer_small_window13", "classification"): (13_600_514, 5_368_043_840),
    ("hrformer_small_window13", "pose"): (7_802_411, 4_121_082_368),
    ("hrformer_small_window13", "segmentation"): (13_579_488, 110_820_676_256),
    ("hrformer_small_window15", "classification"): (13_626_866, 4_731_792_064),
    ("hrformer_small_window15", "pose"): (7_828_763, 5_222_545_920),
    ("hrformer_small_window15", "segmentation"): (13_605_840, 114_743_361_568),
    ("hrformer_base_window13", "classification"): (50_431_362, 20_766_958_300),
    ("hrformer_base_window13", "pose"): (43_323_041, 16_441_935_072),
    ("hrformer_base_window13", "segmentation"): (56_143_776, 281_061_439_294),
    ("hrformer_base_window15", "classification"): (50_484_066, 17_554_391_332),
    ("hrformer_base_window15", "pose"): (43_375_745, 20_136_214_752),
    ("hrformer_base_window15", "segmentation"): (56_196_480, 294_226_226_566),
    ("hrnet_w18", "classification"): (21_299_004, 4_283_537_072),
    ("hrnet_w18", "pose"): (9_318_215, 3_188_385_792),
    ("hrnet_w18", "segmentation"): (13_259_706, 75_025_685_828),
    ("hrnet_w32", "classification"): (41_232_680, 8_921_133_056),
    ("hrnet_w32", "pose"): (28_536_113, 7_645_003_776),
    ("hrnet_w32", "segmentation"): (34_938_342, 133_058_531_328),
    ("hrnet_w48", "classification"): (77_469_864, 17_277_996_032),
    ("hrnet_w48", "pose"): (63_595_745, 15_691_825_152),
    ("hrnet_w48", "segmentation"): (73_169_766, 216_186_975_488),
}
"""(model, task) -> (parameters, multiply-adds) with the task's default number of outputs and input size."""
