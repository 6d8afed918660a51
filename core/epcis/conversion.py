"""Units of measure brought to one base unit per physical quantity, exactly: what a query in another unit compares.

Source: UN/ECE Recommendation 20, revision 17, annexes I and II (conversion factors).
"""

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Final, NamedTuple


class _Scale(NamedTuple):
    base: str
    factor: Fraction
    offset: Fraction


# Per line: the quantity, then code=factor to its base unit. A code that is not listed is compared with itself alone.
_FACTORS: Final = """
pressure PAL=1 H75=10 74=0.001 A89=1000000 A97=100 KPA=1000 MPA=1000000 BAR=100000 MBR=100 ATM=101325 PS=6894.757 HN=133.322
force NEW=1 B47=1000 B73=1000000 C20=0.001 DU=0.00001
energy JOU=1 KJO=1000 3B=1000000 GV=1000000000 WHR=3600 KWH=3600000 MWH=3600000000 D30=1000000000000 C15=0.001
power WTT=1 KWT=1000 MAW=1000000 A90=1000000000 C31=0.001 D80=0.000001
charge COU=1 AMH=3600 TAH=3600000 D77=1000000 B26=1000 D86=0.001 B86=0.000001 C40=0.000000001
current AMP=1 B22=1000 H38=1000000 4K=0.001 B84=0.000001 C39=0.000000001
resistance OHM=1 B49=1000 B75=1000000 E45=0.001 B94=0.000001
voltage VLT=1 KVT=1000 B78=1000000 2Z=0.001 D82=0.000001
angle C81=1 C25=0.001 B97=0.000001
mass KGM=1 GRM=0.001 MGM=0.000001 MC=0.000000001 TNE=1000 DTN=100 HGM=0.1 CGM=0.00001 DJ=0.01 LBR=0.45359237 ONZ=0.028349523125 STI=6.35029318
length MTR=1 KMT=1000 HMT=100 A45=10 DMT=0.1 CMT=0.01 MMT=0.001 4H=0.000001 C45=0.000000001 INH=0.0254 FOT=0.3048 YRD=0.9144 SMI=1609.344 NMI=1852
area MTK=1 KMK=1000000 HAR=10000 ARE=100 DMK=0.01 CMK=0.0001 MMK=0.000001 INK=0.00064516 FTK=0.09290304 YDK=0.83612736 ACR=4046.8564224
volume MTQ=1 LTR=0.001 HLT=0.1 DLT=0.0001 CLT=0.00001 MLT=0.000001 4G=0.000000001 DMQ=0.001 CMQ=0.000001 MMQ=0.000000001 INQ=0.000016387064 FTQ=0.028316846592 YDQ=0.764554857984 GLL=0.003785411784 GLI=0.00454609
speed MTS=1 2M=0.01 C16=0.001 FS=0.3048
acceleration MSK=1 C11=0.001 M38=1000
frequency HTZ=1 KHZ=1000 MHZ=1000000 A86=1000000000 D29=1000000000000
time SEC=1 MIN=60 HUR=3600 DAY=86400 WEE=604800 C26=0.001 B98=0.000001 C47=0.000000001
illuminance LUX=1 KLX=1000
amount C34=1 B45=1000 C18=0.001 FH=0.000001
ratio C62=1 P1=0.01 NX=0.001 59=0.000001 61=0.000000001
memory AD=1 2P=1000 4L=1000000 E34=1000000000 E35=1000000000000
radioactivity BQL=1 2Q=1000 4N=1000000 GBQ=1000000000 CUR=37000000000
concentration KMQ=1 A93=0.001 GP=0.000001 GQ=0.000000001 GL=1 M1=0.001 23=1000
"""  # noqa: E501


def _scales() -> Mapping[str, _Scale]:
    found: dict[str, _Scale] = {}
    for line in _FACTORS.strip().splitlines():
        base, *pairs = line.split()
        for code, _, factor in (pair.partition("=") for pair in pairs):
            found[code] = _Scale(base, Fraction(factor), Fraction(0))
    found["KMH"] = _Scale("speed", Fraction(5, 18), Fraction(0))
    found["HM"] = _Scale("speed", Fraction("0.44704"), Fraction(0))
    found["KNT"] = _Scale("speed", Fraction(1852, 3600), Fraction(0))
    found["KEL"] = _Scale("temperature", Fraction(1), Fraction(0))
    found["CEL"] = _Scale("temperature", Fraction(1), Fraction("273.15"))
    found["FAH"] = _Scale("temperature", Fraction(5, 9), Fraction("459.67") * Fraction(5, 9))
    found["A48"] = _Scale("temperature", Fraction(5, 9), Fraction(0))
    return found


_SCALES: Final = _scales()


def base_unit(uom: str) -> str:
    """The physical quantity a unit belongs to; for a unit without a factor the unit itself."""
    scale = _SCALES.get(uom)
    return f"uom:{uom}" if scale is None else scale.base


def in_base_unit(value: Decimal | int | Fraction, uom: str) -> Fraction:
    """A measured value in the base unit of its quantity, without rounding.

    Args:
        uom: UN/ECE Recommendation 20 code, such as ``CEL``; one without a factor leaves the value as it is.
    """
    scale = _SCALES.get(uom)
    exact = Fraction(value)
    return exact if scale is None else exact * scale.factor + scale.offset
