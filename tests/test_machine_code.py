"""The reader of machine code on lines that ptxas wrote: 12.8's fault is found, what is right is not reported."""

from __future__ import annotations

from machine_code import undefined_reads

HEAD = """
        /*0030*/                   ULDC.64 UR16, c[0x0][0x208] ;        /* 0x0000820000107ab9 */
        /*0040*/                   UMOV UR8, 0x400 ;                    /* 0x0000040000087882 */
        /*0050*/                   LDG.E.128 R88, desc[UR16][R140.64] ; /* 0x000000108c587981 */
        /*0060*/                   UIADD3 UR4, UR8, 0x2000, URZ ;       /* 0x0000200008047890 */
        /*0070*/                   USGXT.U32 UR38, UR4, 0xe ;           /* 0x0000000e0426789a */
        /*0080*/                   UMOV UR39, 0x80000020 ;              /* 0x8000002000277882 */
"""
PRODUCT = "        /*0100*/   HGMMA.64x32x16.F32.BF16 R24, R40, gdesc[UR36].tnspB, R24 ;  /* 0x0060000024187df0 */\n"


def test_what_was_written_may_be_read() -> None:
    store = "        /*0110*/              @P0 STS.128 [R120+UR8+0x2000], R88 ;  /* 0x0020005878007988 */\n"
    assert undefined_reads(HEAD + PRODUCT + store) == []


def test_a_dropped_write_is_found() -> None:
    """As ptxas 12.8 compiled the base of the second descriptor."""
    dropped = "        /*2600*/                   UIADD3 UR34, UP1, UR34, 0x2, URZ ;  /* 0x0000000222227890 */\n"
    assert undefined_reads(HEAD + dropped + PRODUCT) == ["2600: UIADD3 UR34, UP1, UR34, 0x2, URZ"]


def test_descriptors_are_two_registers() -> None:
    assert undefined_reads(HEAD + PRODUCT.replace("UR36", "UR37")) == [
        "0100: HGMMA.64x32x16.F32.BF16 R24, R40, gdesc[UR37].tnspB, R24"
    ]
    assert undefined_reads("        /*0000*/   LDG.E R2, desc[UR4][R2.64] ;\n") == ["0000: LDG.E R2, desc[UR4][R2.64]"]
    wide = "        /*0090*/                   UIADD3.64 UR6, UR38, UR20, URZ ;  /* 0x0 */\n"
    assert undefined_reads(HEAD + wide) == ["0090: UIADD3.64 UR6, UR38, UR20, URZ"]
