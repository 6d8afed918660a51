"""Words of closing periods and of what the chain refused."""

from typing import Final

WORDS: Final[dict[str, tuple[str, str]]] = {
    "books.title": ("关账与链上待办", "Books and chain"),
    "books.lead": (
        "关账需两人;链上被拒绝的步骤在此重新发送。",
        "Two persons close a period; what the chain refused is sent again from here.",
    ),
    "books.periods": ("会计期间", "Periods"),
    "books.open": ("尚未关账。", "No period is closed yet."),
    "books.until": ("关账至", "Close to"),
    "books.propose": ("提议关账", "Propose to close"),
    "books.close": ("关账至 {day}", "Close to {day}"),
    "books.figures": ("{entries} 笔分录,借方合计 {debits}", "{entries} entries, debits {debits}"),
    "books.proposed_by": ("提议人", "Proposed by"),
    "books.cases": ("链上被拒绝的步骤", "Refused by the chain"),
    "books.none": ("没有待处理的步骤。", "Nothing waits."),
    "books.what": ("步骤", "Step"),
    "books.why": ("合约的理由", "The contract's reason"),
    "books.since": ("自", "Since"),
    "books.next": ("下一步", "What to do"),
    "books.again": ("重新发送", "Send again"),
    "books.ask_again": ("在申请页重新提出解除质押", "Ask for the release again on the application's page"),
    "purpose.enforce": ("处置开始", "enforcement"),
    "purpose.settle": ("处置结清", "settlement of the sale"),
    "purpose.cure": ("停止处置", "end of enforcement"),
    "purpose.release": ("解除质押", "release"),
}
