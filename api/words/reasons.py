"""Reasons of credit decisions: why goods count for nothing, which record is missing, and what would change it."""

from typing import Final

_GROUPS: Final = {
    "account": ("账户往来", "account conduct"),
    "tax": ("纳税", "tax"),
    "secured": ("抵押贷款往来", "secured-loan conduct"),
    "sales": ("销售", "sales"),
    "provenance": ("货物履历", "goods history"),
}
_FLOORS: Final = {
    "completeness": ("环节完整度", "completeness"),
    "signatures": ("签名", "signatures"),
    "proofs": ("锚定证明", "anchor proofs"),
    "continuity": ("履历连续性", "continuity"),
    "freshness": ("数据新鲜度", "freshness"),
    "independence": ("来源独立性", "independence"),
}
_REMEDIES: Final = {
    "completeness": ("补录缺失的环节。", "Record the missing stages."),
    "signatures": (
        "让每个事件由已登记密钥的设备签名。",
        "Have every event signed by a device whose key is registered.",
    ),
    "proofs": ("等待事件锚定,或修复证明。", "Wait until the events are anchored, or repair the proof."),
    "continuity": ("补传缺失的消息,或说明移动原因。", "Send the missing messages, or explain the movement."),
    "freshness": (
        "在仓库补做检验或上传新的传感器读数。",
        "Record a fresh inspection or sensor reading in the warehouse.",
    ),
    "independence": (
        "请另一家单位(如检验机构)也作记录。",
        "Have a second organisation record the goods, an inspector for example.",
    ),
}

WORDS: Final[dict[str, tuple[str, str]]] = {
    "why.proof_failed": ("存储的事件与证明不符", "a stored event no longer fits its proof"),
    "why.two_places": ("同一件货物出现在两地", "the same unit in two places"),
    "why.two_places_at_once": ("同一编码同时出现在两地", "the same code in two places at once"),
    "why.recalled": ("货物已召回", "recalled"),
    "why.sold": ("货物已售出", "sold"),
    "why.sold_twice": ("未退货却售出两次", "sold twice without a return"),
    "why.decommissioned": ("货物已销毁或停用", "destroyed or taken out of use"),
    "why.unlicensed_custodian": ("保管方未登记", "custodian not registered"),
    "why.moved_unauthorised": ("货物未经许可离库", "left the warehouse without authorisation"),
    "why.transit_too_long": ("运输时间超过计划", "transit longer than planned"),
    "why.inspection_overdue": ("检验已逾期", "inspection overdue"),
    "why.book_above_sensor": ("账面数量高于传感器清点", "book above what sensors count"),
    "why.stock_below_book": ("盘点少于账面", "a count found less than the book"),
    "why.equivocation": ("设备签署了两种说法", "a device signed two stories"),
    "why.commissioned_twice": ("同一编码赋码两次", "the same code put on goods twice"),
    "why.observed_after_decommissioning": ("停用后仍有记录", "recorded after being taken out of use"),
    "why.packed_more_than_made": ("装箱数多于产量", "more packed than made"),
    "why.output_exceeds_input": ("产出多于投入", "more came out than went in"),
    "why.expired_shipped": ("过期后仍发运或出售", "shipped or sold after expiry"),
    "why.no_custody_event": ("没有有效的入库记录", "no valid custody event"),
    "why.no_production_event": ("没有有效的生产记录", "no valid production event"),
    "why.future_price": ("价格日期在未来", "price dated in the future"),
    "why.zero_price": ("价格为零", "price is zero"),
    "why.goods_ineligible": ("货物不符合条件", "goods not eligible"),
    "remedy.no_account": ("请先开户。", "Open an account."),
    "remedy.tenor": ("请申请较短的期限。", "Ask for a shorter tenor."),
    "remedy.above_limit": ("请减少金额或增加货物。", "Ask for less or bring more goods."),
    "remedy.inspection_overdue": ("请重新检验货物。", "Have the goods inspected again."),
    **{f"why.{name}_below_floor": (f"{zh}低于下限", f"{en} below its floor") for name, (zh, en) in _FLOORS.items()},
    **{f"why.missing_{name}": (f"缺少{zh}记录", f"no record of {en}") for name, (zh, en) in _GROUPS.items()},
    "why.stale_provenance": ("货物履历过期", "goods history out of date"),
    **{f"remedy.{name}": words for name, words in _REMEDIES.items()},
    **{f"remedy.{name}_below_floor": words for name, words in _REMEDIES.items()},
    **{f"remedy.missing_{n}": (f"请提供{zh}记录。", f"Bring a record of {en}.") for n, (zh, en) in _GROUPS.items()},
    **{f"remedy.stale_{n}": (f"请提供新的{zh}记录。", f"Bring a new record of {en}.")
       for n, (zh, en) in _GROUPS.items()},
    **{f"remedy.rating_{n}": (f"改善{zh}可提高得分。", f"A better record of {en} gives more points.")
       for n, (zh, en) in _GROUPS.items()},
}  # fmt: skip
