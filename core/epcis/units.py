"""Units of measure (UN/ECE Recommendation 20) and the sensor measurements they belong to."""

from collections.abc import Mapping

# Codes by physical quantity. Source: UN/ECE Recommendation 20, revision 17, annexes I to III; a code that is not listed
# here is not judged.
_CODES = """
temperature KEL FAH CEL A48
pressure PAL H75 74 A89 A97 B96 KPA MPA BAR MBR C55 C56 B40 UA 80 H78 HP F79 F78 ATT ATM HN PS E42 E41 84
force NEW B47 B73 B92 C20 DU C78 B37 B51
energy JOU KJO A68 C68 D30 GV 3B C15 A70 A13 WHR MWH KWH GWH D32 A53 B71 A85 B29 A57 D60 J75 E14 BTU
power WTT KWT MAW A90 C31 D80 HJ BHP
charge COU A8 AMH TAH D77 D86 B26 B86 C40 C71
current AMP B22 H38 4K B84 C39 C70
resistance OHM A87 B75 H44 B49 E45 B94
conductance SIE B53 C27 B99 N92
voltage VLT 2Z B78 D82 KVT
capacitance FAR H48 C10 4O C41 4T
inductance 81 C14 B90 P24
angle C81 C25 B97 A91 DD D61 D62 M43 M44
mass KGM GRM ONZ LBR MGM MC STI TNE DTN DJ CGM HGM
length MTR A11 A71 C45 4H A12 DMT CMT MMT INH FOT YRD NMI A45 HMT KMT B57 AK SMI
area MTK CMK DMK MMK KMK HAR ARE FTK INK YDK ACR
volume MTQ MAL LTR MMQ CMQ DMQ MLT HLT CLT DMA DLT 4G K6 A44 INQ FTQ YDQ GLI GLL PTI QTI PTL QTL OZI OZA
speed KMH MTS HM KNT M62 H49 2M FR FS 2X
acceleration MSK A76 C11 M38 M39 M41 A73 K40
frequency HTZ KHZ MHZ A86 D29
time SEC MIN HUR DAY C26 B98 C47 WEE MON ANN
illuminance LUX KLX P25
luminous_intensity CDL
luminous_flux LUM
luminance A24
concentration A93 KMQ GP GQ M1 23 B35 GL
amount C34 B45 C18 FH
amount_concentration C35 C36 B46 M33
ratio P1 59 61 NX C62
memory AD 2P 4L E34 E35
radioactivity BQL CUR GBQ 4N 2Q
"""
_GROUPS = {
    "Temperature": "temperature", "Pressure": "pressure", "Force": "force", "Energy": "energy", "Power": "power",
    "ElectricCharge": "charge", "ElectricCurrent": "current", "Resistance": "resistance", "Conductance": "conductance",
    "Voltage": "voltage", "Capacitance": "capacitance", "Inductance": "inductance", "Angle": "angle", "Mass": "mass",
    "Length": "length", "Altitude": "length", "Area": "area", "Volume": "volume", "Speed": "speed",
    "Acceleration": "acceleration", "Frequency": "frequency", "Time": "time", "Illuminance": "illuminance",
    "LuminousIntensity": "luminous_intensity", "LuminousFlux": "luminous_flux", "Luminance": "luminance",
    "AbsoluteHumidity": "concentration", "MassConcentration": "concentration", "Density": "concentration",
    "AmountOfSubstance": "amount", "AmountOfSubstancePerUnitVolume": "amount_concentration",
    "RelativeHumidity": "ratio", "VolumeFraction": "ratio", "MemoryCapacity": "memory",
    "Radioactivity": "radioactivity",
}  # fmt: skip
_QUANTITY_OF: Mapping[str, str] = {
    code: line.split()[0] for line in _CODES.strip().splitlines() for code in line.split()[1:]
}


def fits(measurement: str, uom: str) -> bool:
    """Whether a unit can measure this quantity; a measurement or a unit that we do not know always fits.

    Args:
        measurement: bare measurement type, such as ``Temperature``.
        uom: UN/ECE Recommendation 20 code, such as ``CEL``.
    """
    group = _GROUPS.get(measurement)
    found = _QUANTITY_OF.get(uom)
    return group is None or found is None or group == found
