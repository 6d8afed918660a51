"""Words of the quarantine: each rule that keeps a message out, what it protects, and what to do."""

from typing import Final

WORDS: Final[dict[str, tuple[str, str]]] = {
    "held.search": ("查找", "Search"),
    "held.text": ("说明、主题或位置中的文字", "Text in explanation, topic or place"),
    "held.kid": ("密钥", "Key"),
    "held.since": ("从(当地时间)", "From (local time)"),
    "held.until": ("至(当地时间)", "Until (local time)"),
    "held.message": ("消息编号", "Message id"),
    "held.state": ("状态", "State"),
    "held.any": ("任意", "any"),
    "held.open_row": ("查看", "open"),
    "held.rule": ("所违反的规则", "The rule"),
    "held.what_to_do": ("该怎么做", "What to do"),
    "held.first": ("首次收到", "First arrived"),
    "held.pointer": ("位置", "Place in the message"),
    "held.topic": ("主题", "Topic"),
    "held.authentic": ("签名", "Signature"),
    "held.is_authentic": (
        "真实:由登记的密钥签名。设备已收到拒绝回执,拒绝记录已进入日志。",
        "Authentic: a registered key signed it. Its device has a signed refusal; a refusal record goes into the log.",
    ),
    "held.not_authentic": (
        "未证实:不能确认出自该设备,因此没有答复,消息仍在设备的待发箱里。",
        "Not proven to be the device's: it got no answer, and its message is still in its outbox.",
    ),
    "held.refusal_record": ("拒绝记录", "Refusal record"),
    "held.at_leaf": ("日志第 {leaf} 条", "leaf {leaf} of the log"),
    "held.waits": ("等待入日志", "waiting for its leaf"),
    "held.decoded": ("解码内容", "Decoded"),
    "held.header": ("头", "Header"),
    "held.payload": ("载荷", "Payload"),
    "held.disclosures": ("披露字段", "Disclosed fields"),
    "held.not_decoded": ("无法解码为消息。开头的字节如下。", "This cannot be read as a message. Its first bytes:"),
    "held.raw": ("下载原始字节({size} 字节)", "Download the very bytes ({size})"),
    "held.trace": ("程序错误", "Our own failure"),
    "held.replay": ("重放", "Replay"),
    "held.replay_lead": (
        "修复之后,用同样的字节再走一遍同样的流程。",
        "After a fix: the very same bytes go through the same pipeline once more.",
    ),
    "held.replay_all": ("重放此原因的全部消息", "Replay all of this reason"),
    "held.dismiss": ("标记为已丢弃", "Dismiss"),
    "held.result": ("重放结果", "Result of the replay"),
    "held.result_accepted": ("已收下", "accepted"),
    "held.result_still": ("仍不符合:{code}", "still refused: {code}"),
    "held.result_gone": ("已不在隔离区", "no longer held"),
    "held.full": ("隔离区已用 {share}%", "The quarantine is {share} % full"),
    "held.full_lead": (
        "超过 80% 时接收放慢,满时停止接收;不会丢弃消息。设备保留未得到回执的消息。",
        "Beyond 80 % intake slows, at 100 % it stands still; nothing is dropped: devices keep what has no receipt.",
    ),
    "held.retention": ("保留 {days} 天", "Kept for {days} days"),
    "held.purge": ("清除更早的", "Purge older ones"),
    "held.purge_days": ("早于(天)", "Older than (days)"),
    "held.purged": ("已清除 {count} 条", "{count} removed"),
    "held.own_title": ("被拒收的消息", "Rejected messages"),
    "held.own_lead": (
        "本企业设备发来而未被收下的消息,以及原因。",
        "What your devices sent and was not taken, and why.",
    ),
    "held.no_rule": ("此规则没有更多说明。", "Nothing more is written about this rule."),
    "rule.bad_signature": (
        "签名必须与登记的密钥和收到的字节相符,且 s 为低值。请对原样发送的 header.payload 签名。",
        "The signature must fit the registered key and the very bytes, with a low s. Sign header.payload as sent.",
    ),
    "rule.unknown_key": (
        "日志里没有此密钥的记录。请先登记设备,等密钥记录进入日志后重放。",
        "No key record of this key stands in the log. Enrol the device; once its record is in the log, replay.",
    ),
    "rule.key_ended": (
        "此密钥在这条消息之前已停用。请为设备登记新密钥;停用之后的消息不能作为证据。",
        "The key ended before this message. Give the device a new key; what comes after the end is no evidence.",
    ),
    "rule.wrong_audience": (
        "消息是发给另一个环境的(aud)。防止把测试环境的消息重放到生产环境。检查设备的服务标识。",
        "The message is for another environment (aud), so that nothing is replayed from one to another. Check its aud.",
    ),
    "rule.wrong_device": (
        "消息中的企业或设备与密钥记录不符。请检查 org 和 iss。",
        "Organisation or device differ from those of the key's record. Check org and iss.",
    ),
    "rule.wrong_topic": (
        "消息出现在另一台设备的主题上。只有设备本身可以在自己的主题上发布。",
        "It came on another device's topic. Only the device itself publishes on its topic.",
    ),
    "rule.bad_topic": (
        "主题须为 tb/1/企业 GLN/设备/events。",
        "Messages arrive on tb/1/GLN/device/events.",
    ),
    "rule.retained": (
        "保留消息会被反复投递。请关闭 retain 标志。",
        "A retained message would be delivered for ever. Publish without the retain flag.",
    ),
    "rule.wrong_use": (
        "此密钥的用途不是签署消息。",
        "A key of this use signs no messages.",
    ),
    "rule.not_a_gateway": (
        "只有平台网关可以代他人签名。",
        "Only the platform's gateway signs on behalf of others.",
    ),
    "rule.out_of_scope": (
        "密钥的权限不含此环节、产品或地点。需要新的权限时,请登记新密钥。",
        "The key's scope does not hold this step, product or place. Another scope needs a new key.",
    ),
    "rule.event_in_future": (
        "事件时间比收到时晚五分钟以上。请校准设备时钟;系统不会替您改时间。",
        "eventTime lies more than five minutes ahead of its arrival. Set the device's clock; we never change a time.",
    ),
    "rule.wrong_item_root": (
        "签名的物品清单与事件所列物品不符。请用规范的标识重新计算 items。",
        "The signed item list is not that of the event. Compute items anew from canonical identifiers.",
    ),
    "rule.missing_disclosure": (
        "有一个摘要没有对应的披露字段:传输途中不得去掉字段。",
        "A digest has no disclosure: nobody on the way may strip a field.",
    ),
    "rule.bad_disclosure": (
        "某个披露字段多余、重复或无法读取。",
        "A disclosure is too many, stands twice or cannot be read.",
    ),
    "rule.bad_form": (
        "这不是由波浪号分隔的 JWT 与披露字段。",
        "It is no JWT with disclosures, each followed by a tilde.",
    ),
    "rule.bad_header": (
        "头须恰好为 alg、typ 和 kid。",
        "The header is exactly alg, typ and kid.",
    ),
    "rule.wrong_algorithm": ("只接受 ES256。", "Only ES256 is taken."),
    "rule.bad_payload": (
        "载荷的字段不符合消息格式(设备指南第 2 节)。",
        "The payload's members are not those of a message (device guide, section 2).",
    ),
    "rule.too_large": (
        "一次发布最多 262144 字节,JWT 最多 60000 字节。请减少每条消息的事件数。",
        "A publish has at most 262,144 bytes, its JWT 60,000. Put fewer events into a message.",
    ),
    "rule.too_deep": ("JSON 嵌套超过 16 层。", "The JSON is nested deeper than 16 levels."),
    "rule.bad_json": ("不是有效的 JSON。", "This is no valid JSON."),
    "rule.duplicate_key": ("JSON 中同一名称出现两次。", "One name stands twice in a JSON object."),
    "rule.bad_number": ("数字过大或不是普通数字。", "A number is too large or none at all."),
    "rule.bad_identifier": ("标识不是有效的 GS1 编码或 URI。", "An identifier is neither a GS1 key nor a URI."),
    "rule.bad_check_digit": (
        "标识的校验位不对:很可能有一位输错。",
        "The check digit of an identifier is wrong: one digit is probably mistyped.",
    ),
    "rule.bad_time": ("时间须带日期、秒和时区。", "A time needs a date, seconds and a time zone."),
    "rule.missing_field": ("缺少标准要求的字段。", "A field that the standard asks for is missing."),
    "rule.unknown_field": (
        "标准没有此字段,也没有命名空间。",
        "The standard knows no such field, and it has no namespace.",
    ),
    "rule.unknown_term": ("不是标准词汇,也不是 URI。", "It is neither a word of the standard nor a URI."),
    "rule.wrong_type": ("字段的类型不对。", "The field holds another type than the standard says."),
    "rule.undeclared_namespace": (
        "前缀没有在 @context 中声明。",
        "Its prefix is not declared in @context.",
    ),
    "rule.poison": (
        "处理此消息时我们自己的程序出错。其他消息不受影响。修复后请重放。",
        "Our own code failed on this message; others were not held up. After the fix, replay it.",
    ),
    "rule.too_many_events": ("一条消息含 1 至 500 个事件。", "A message holds 1 to 500 events."),
    "rule.bad_base64url": ("base64url 含有填充或多余的位。", "The base64url has padding or stray bits."),
    "rule.float_refused": ("请以十进制文本写小数。", "Write fractions as decimals, not as floats."),
}
