"""Words of the Core Business Vocabulary in all their spellings, brought to one local name.

Source: GS1 Core Business Vocabulary 2.0, sections 7 and 8; GS1 EPCIS 2.0.1, section 12.
"""

from collections.abc import Mapping
from types import MappingProxyType


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


BIZ_STEPS = _words(
    "accepting arriving assembling collecting commissioning consigning creating_class_instance cycle_counting "
    "decommissioning departing destroying disassembling dispensing encoding entering_exiting holding inspecting "
    "installing killing loading other packing picking receiving removing repackaging repairing replacing reserving "
    "retail_selling sampling sensor_reporting shipping staging_outbound stock_taking stocking storing transporting "
    "unloading unpacking void_shipping"
)
DISPOSITIONS = _words(
    "active available completeness_inferred completeness_verified conformant container_closed container_open damaged "
    "destroyed dispensed disposed encoded expired in_progress in_transit inactive mismatch_class mismatch_instance "
    "mismatch_quantity needs_replacement no_pedigree_match non_conformant non_sellable_other partially_dispensed "
    "recalled reserved retail_sold returned sellable_accessible sellable_not_accessible stolen unavailable "
    "unknown"
)
BIZ_TRANSACTION_TYPES = _words("bol cert desadv inv pedigree po poc prodorder recadv rma testprd testres upevt")
SOURCE_DEST_TYPES = frozenset(("owning_party", "possessing_party", "location"))
ERROR_REASONS = frozenset(("did_not_occur", "incorrect_data"))
COMPONENTS = _words(
    "x y z axial_distance azimuth height spherical_radius polar_angle elevation_angle easting northing latitude "
    "longitude altitude"
)
SENSOR_ALERTS = frozenset(("ALARM_CONDITION", "ERROR_CONDITION"))
MEASUREMENTS = _words(
    "AbsoluteHumidity AbsorbedDose AbsorbedDoseRate Acceleration Radioactivity Altitude AmountOfSubstance "
    "AmountOfSubstancePerUnitVolume Angle AngularAcceleration AngularMomentum AngularVelocity Area Capacitance "
    "Conductance Conductivity Count Density Dimensionless DoseEquivalent DoseEquivalentRate DynamicViscosity "
    "ElectricCharge ElectricCurrent ElectricCurrentDensity ElectricFieldStrength Energy Exposure Force Frequency "
    "Illuminance Inductance Irradiance KinematicViscosity Length LinearMomentum Luminance LuminousFlux "
    "LuminousIntensity MagneticFlux MagneticFluxDensity MagneticVectorPotential Mass MassConcentration MassFlowRate "
    "MassPerAreaTime MemoryCapacity MolalityOfSolute MolarEnergy MolarMass MolarVolume Power Pressure RadiantFlux "
    "RadiantIntensity RelativeHumidity Resistance Resistivity SolidAngle SpecificVolume Speed SurfaceDensity "
    "SurfaceTension Temperature Time Torque Voltage Volume VolumeFlowRate VolumeFraction VolumetricFlux "
    "Wavenumber"
)
ACTIONS = frozenset(("ADD", "OBSERVE", "DELETE"))

# Field, then the part of a web term that names its list ("https://ref.gs1.org/cbv/BizStep-shipping").
WEB_LISTS: Mapping[str, str] = MappingProxyType(
    {"bizStep": "BizStep", "disposition": "Disp", "bizTransaction": "BTT", "sourceDest": "SDT", "reason": "ER",
     "component": "Comp"}
)  # fmt: skip
CBV = "https://ref.gs1.org/cbv/"
VOC = "https://gs1.org/voc/"
_URN_LISTS = {"BizStep": "bizstep", "Disp": "disp", "BTT": "btt", "SDT": "sdt", "ER": "er", "Comp": "comp"}
_WEB_ROOTS = (CBV, "http://ref.gs1.org/cbv/", "https://ns.gs1.org/cbv/", "http://ns.gs1.org/cbv/", "cbv:")
_VOC_ROOTS = (VOC, "http://gs1.org/voc/", "https://www.gs1.org/voc/", "http://www.gs1.org/voc/", "gs1:")


# The words of each field, as ``local_name`` names the fields.
WORDS: Mapping[str, frozenset[str]] = MappingProxyType(
    {"bizStep": BIZ_STEPS, "disposition": DISPOSITIONS, "bizTransaction": BIZ_TRANSACTION_TYPES,
     "sourceDest": SOURCE_DEST_TYPES, "reason": ERROR_REASONS, "component": COMPONENTS}
)  # fmt: skip


def local_name(term: str, field: str) -> str:
    """The bare word of a vocabulary term given bare, as a CURIE, a web URI or a CBV URN; any other term unchanged.

    Args:
        field: bizStep, disposition, bizTransaction, sourceDest, reason or component; anything else stands for the terms
            of the GS1 web vocabulary (measurement types, sensor alerts).
    """
    list_name = WEB_LISTS.get(field)
    if list_name is None:
        for root in _VOC_ROOTS:
            if term.startswith(root):
                return term[len(root) :].removeprefix("MT-")
        return term
    urn = f"urn:epcglobal:cbv:{_URN_LISTS[list_name]}:"
    if term.lower().startswith(urn):
        return term[len(urn) :]
    for root in _WEB_ROOTS:
        if term.startswith(root):
            return term[len(root) :].removeprefix(f"{list_name}-")
    return term


def biz_step(term: str | None) -> str:
    """The bare word of a business step, "" for None."""
    return "" if term is None else local_name(term, "bizStep")


def disposition(term: str | None) -> str:
    """The bare word of a disposition, "" for None."""
    return "" if term is None else local_name(term, "disposition")
