"""Words of findings: what a rule found, in a sentence for staff and in plain words for consumers."""

from typing import Final

WORDS: Final[dict[str, tuple[str, str]]] = {
    "finding.title": ("规则发现的问题", "What rules found"),
    "finding.lead": (
        "规则按日志顺序逐条核对,只提示矛盾,从不拒收;更正或迟到的事件会撤回提示。",
        "Rules go through the log in order. They point out contradictions and refuse nothing; corrections and late "
        "events take them back.",
    ),
    "finding.none": ("没有发现矛盾。", "No contradiction was found."),
    "finding.events": ("(事件 {events})", " (events {events})"),
    "finding.withdrawn": ("已撤回:{cause}", "taken back: {cause}"),
    "finding.serious": ("严重", "serious"),
    "finding.warning": ("警告", "warning"),
    "finding.notice": ("提示", "notice"),
    "finding.cause_declared_in_error": ("所依据的事件已被声明为错误", "its event was declared wrong"),
    "finding.cause_late_event": ("迟到的事件作出了解释", "a late event explains it"),
    "finding.cause_key_ended": ("签名密钥已终止,该事件不再作为证据", "the signing key ended before that event"),
    "finding.cause_erased": ("所依据的内容已依法删除", "what it stood on was erased"),
    "finding.implausible_speed": (
        "两次记录相距 {km} 公里、相隔 {s} 秒,合每小时 {kmh} 公里,超过上限 {most} 公里。",
        "Recorded {km} km apart within {s} s: {kmh} km/h, more than the {most} km/h that are possible.",
    ),
    "finding.two_places_at_once": (
        "同一编码在同一时间出现在两个地点。",
        "One code was recorded in two places at the same time.",
    ),
    "finding.commissioned_twice": ("同一编码被赋码两次。", "One code was put on goods twice."),
    "finding.observed_after_decommissioning": (
        "编码注销之后又有记录。",
        "It was recorded again after it had been taken out of use.",
    ),
    "finding.observed_after_consumption": (
        "已作为投料消耗之后又有记录(可能只消耗了一部分)。",
        "It was recorded again after it went into other goods (it may have been used up in part).",
    ),
    "finding.sold_twice": ("没有退货,却被售出两次。", "It was sold twice without a return in between."),
    "finding.observed_after_sale": (
        "售出之后没有退货,却又出现在供应链中。",
        "It appeared in the supply chain again after its sale, without a return.",
    ),
    "finding.packed_while_packed": (
        "尚未从 {inside} 中取出,就被装入另一包装。",
        "It was packed into another unit while still inside {inside}.",
    ),
    "finding.unpacked_not_inside": (
        "从并未装入的包装中取出。",
        "It was taken out of a unit in which it had not been packed.",
    ),
    "finding.unpacked_more_than_packed": (
        "取出 {taken} {uom},而包装内只有 {held}。",
        "{taken} {uom} were taken out, only {held} were inside.",
    ),
    "finding.packed_more_than_made": (
        "该批次共装箱 {packed} {uom},而产量只有 {made}。",
        "{packed} {uom} of the lot were packed, only {made} were made.",
    ),
    "finding.output_exceeds_input": (
        "产出 {outputs} {uom},多于投入的 {inputs}。",
        "{outputs} {uom} came out of {inputs} that went in.",
    ),
    "finding.unexplained_loss": (
        "投入 {inputs} {uom},产出 {outputs},差额没有说明(例如干燥、废料)。",
        "{inputs} {uom} went in, {outputs} came out; nothing explains the difference (drying and waste would).",
    ),
    "finding.stock_below_book": (
        "盘点 {counted} {uom},少于账面至少应有的 {book}。",
        "{counted} {uom} were counted, the book holds at least {book}.",
    ),
    "finding.stock_above_book": (
        "盘点 {counted} {uom},多于账面至多应有的 {book}。",
        "{counted} {uom} were counted, the book holds at most {book}.",
    ),
    "finding.expired_shipped": (
        "发货或销售时已过期 {days} 天。",
        "It was shipped or sold {days} days after its expiry date.",
    ),
    "finding_plain.title": ("记录之间有矛盾", "The records contradict one another"),
    "finding_plain.lead": (
        "系统按规则核对了记录。这不等于商品有问题,但请留意:",
        "Rules compared the records. This does not prove anything about the goods, but take note:",
    ),
    "finding_plain.implausible_speed": (
        "记录显示它移动得比任何运输工具都快,这个编码可能被复制过。",
        "By its records it moved faster than any transport; the code may have been copied.",
    ),
    "finding_plain.two_places_at_once": (
        "它同时在两个地点被记录,这个编码可能被复制过。",
        "It was recorded in two places at once; the code may have been copied.",
    ),
    "finding_plain.commissioned_twice": (
        "这个编码被赋予过两次,可能有两件商品使用同一编码。",
        "This code was given out twice; two items may carry it.",
    ),
    "finding_plain.observed_after_decommissioning": (
        "这个编码注销后又被使用。",
        "This code was used again after it had been taken out of use.",
    ),
    "finding_plain.sold_twice": (
        "记录显示它被售出过两次,其间没有退货。",
        "By its records it was sold twice without having been returned.",
    ),
    "finding_plain.packed_more_than_made": (
        "该批次装箱的数量多于生产的数量。",
        "More of its lot was packed than was made.",
    ),
    "finding_plain.output_exceeds_input": (
        "生产记录中的产出多于投入。",
        "More came out of its production than went in, by the records.",
    ),
    "finding_plain.stock_below_book": (
        "一次盘点的数量少于账面数量。",
        "A count found fewer goods than the books hold.",
    ),
    "finding_plain.expired_shipped": (
        "它在过期之后仍被发货或销售。",
        "It was shipped or sold after its expiry date.",
    ),
    "finding_plain.other": ("其记录中有一处矛盾。", "Its records hold a contradiction."),
}
