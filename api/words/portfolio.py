"""Words of the bank's portfolio page."""

from typing import Final

WORDS: Final[dict[str, tuple[str, str]]] = {
    "portfolio.title": ("组合概览", "Portfolio"),
    "portfolio.lead": (
        "额度使用、账龄、集中度与最近一次日终结果。",
        "Limits used, ageing, concentration and what the last end of day made of it.",
    ),
    "portfolio.limit": ("授信总额", "Limits"),
    "portfolio.owed": ("已用", "Owed"),
    "portfolio.late": ("逾期", "Overdue"),
    "portfolio.provision": ("贷款损失准备", "Provisions"),
    "portfolio.use": ("额度使用", "Limits used"),
    "portfolio.share": ("占比", "Share"),
    "portfolio.ages": ("账龄", "Ageing"),
    "portfolio.age_0": ("未逾期", "not overdue"),
    "portfolio.age_30": ("1–30 天", "1–30 days"),
    "portfolio.age_90": ("31–90 天", "31–90 days"),
    "portfolio.age_270": ("91–270 天", "91–270 days"),
    "portfolio.age_360": ("271–360 天", "271–360 days"),
    "portfolio.age_more": ("360 天以上", "over 360 days"),
    "portfolio.night": ("最近一次日终:五级分类与准备", "Last end of day: classes and provisions"),
    "portfolio.no_night": ("还没有做过日终。", "No end of day has been run yet."),
    "portfolio.concentration": ("集中度", "Concentration"),
    "portfolio.ltv": ("抵押率", "Loan to value"),
    "portfolio.ltv_lead": (
        "每次提款时的抵押率;虚线为 75%,超过须有实际控制人担保。",
        "At each draw; above the dashed line of 75 % the actual controller must guarantee.",
    ),
    "portfolio.none": ("还没有生效的额度。", "No facility runs yet."),
    "portfolio.no_draws": ("还没有提款。", "Nothing has been drawn yet."),
    "category.infant_formula": ("婴幼儿配方乳粉", "infant formula"),
    "category.dairy": ("乳制品", "dairy"),
    "category.copper": ("铜", "copper"),
    "category.rice": ("大米", "rice"),
    "category.phones": ("手机", "phones"),
    "category.vaccines": ("疫苗", "vaccines"),
}
