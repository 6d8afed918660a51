"""Words of the page of mirrors."""

from typing import Final

WORDS: Final[dict[str, tuple[str, str]]] = {
    "mirror.title": ("镜像", "Mirrors"),
    "mirror.lead": (
        "监管机构与银行各自重放全部日志,核对每一条记录、清单与签名,再共同签署检查点。",
        "Regulators and banks replay the whole log by themselves, check every entry, list and signature, then cosign.",
    ),
    "mirror.none": (
        "尚无镜像登记:完整性只依运营方所述。",
        "No mirror is registered yet: completeness is according to the operator.",
    ),
    "mirror.organisation": ("机构", "Organisation"),
    "mirror.confirmed": ("最后确认", "Last confirmed"),
    "mirror.size": ("{size} 条", "{size} leaves"),
    "mirror.lag": ("落后", "Behind"),
    "mirror.state": ("状态", "State"),
    "mirror.good": ("一致", "Agrees"),
    "mirror.never": ("尚未签署", "Nothing cosigned yet"),
    "mirror.refuses": ("拒绝签署", "Refuses"),
    "mirror.where": ("第 {leaf} 条({kind})", "leaf {leaf} ({kind})"),
    "mirror.key": ("验证公钥(自行固定)", "Verifier key (pin it yourself)"),
    "mirror.pinned": ("本站网页已固定此公钥", "These pages pin this key"),
}
