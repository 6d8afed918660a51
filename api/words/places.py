"""Words for names of event fields, findings and signers that other modules give as codes."""

from typing import Final

WORDS: Final[dict[str, tuple[str, str]]] = {
    "field.bizTransactionList": ("业务单据", "business documents"),
    "field.sourceList": ("发出方", "sources"),
    "field.destinationList": ("接收方", "destinations"),
    "field.quantityList": ("数量", "quantities"),
    "field.inputQuantityList": ("投料数量", "input quantities"),
    "field.outputQuantityList": ("产出数量", "output quantities"),
    "field.childQuantityList": ("装入数量", "packed quantities"),
    "field.inputEPCList": ("投料", "inputs"),
    "field.outputEPCList": ("同批其他单件", "other items made together"),
    "field.epcList": ("同时记录的其他单件", "other items recorded together"),
    "field.childEPCs": ("同装的其他单件", "other items packed together"),
    "field.sensorElementList": ("传感器读数", "sensor readings"),
    "field.certificationInfo": ("证书", "certificates"),
    "field.ilmd": ("批次资料", "lot data"),
    "field.readPoint": ("读取点", "read point"),
    "field.bizLocation": ("所在地点", "location"),
    "field.parentID": ("外层包装", "outer package"),
    "field.transformationID": ("加工编号", "transformation number"),
    "field.persistentDisposition": ("持续状态", "lasting state"),
    "field.eventID": ("事件编号", "event number"),
    "field.@context": ("数据词汇表", "vocabulary of the data"),
    "field.tb:errorDeclaration": ("更正说明", "words of a correction"),
    "field.erased": ("已依法删除的内容", "content erased by its owner"),
    "field.other": ("其他内容", "other content"),
}
