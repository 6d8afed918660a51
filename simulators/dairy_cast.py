"""The cast of the infant formula story. All organisations are made up; the prefix 952 is for demonstrations."""

from simulators.cast import Cast, DeviceSpec, Organisation, Ownership, Place, Product, site
from simulators.keys import GS1, URN, Gtin, Spelling

FARM = Organisation("farm", "9526001", "maker", "Example Pastures (demo)", "示例牧场(演示)", URN)
DAIRY = Organisation("dairy", "9526002", "maker", "Example Dairy (demo)", "示例乳业(演示)", GS1)
LAB = Organisation(
    "lab",
    "9526003",
    "inspector",
    "Example Food Laboratory (demo)",
    "示例食品检测中心(演示)",
    Spelling("https://lab.example"),
)
WAREHOUSE = Organisation(
    "warehouse", "9526004", "custodian", "Example Bonded Storage (demo)", "示例保税仓储(演示)", URN
)
CARRIER = Organisation("carrier", "9526005", "carrier", "Example Haulage (demo)", "示例运输(演示)", URN)
STORES = Organisation(
    "stores",
    "9526006",
    "retailer",
    "Example Mother & Baby Stores (demo)",
    "示例母婴连锁(演示)",
    Spelling("https://id.stores.example"),
)
MARKET = Organisation("market", "9526007", "retailer", "Example Supermarkets (demo)", "示例超市(演示)", GS1)
FIRST_BANK = Organisation("first-bank", "9526008", "lender", "First Example Bank (demo)", "第一示例银行(演示)", GS1)
SECOND_BANK = Organisation("second-bank", "9526009", "lender", "Second Example Bank (demo)", "第二示例银行(演示)", GS1)
REGULATOR = Organisation(
    "regulator", "9526010", "regulator", "Example Food Authority (demo)", "示例食品监管局(演示)", GS1
)
OPERATOR = Organisation("operator", "9526011", "operator", "Tracebond Operations (demo)", "溯源平台运营方(演示)", GS1)
ORGANISATIONS = (
    FARM, DAIRY, LAB, WAREHOUSE, CARRIER, STORES, MARKET, FIRST_BANK, SECOND_BANK, REGULATOR, OPERATOR,
)  # fmt: skip

MILK = Gtin(FARM.prefix, 1)
POWDER = Gtin(DAIRY.prefix, 1)
LACTOSE = Gtin(DAIRY.prefix, 2)
PREMIX = Gtin(DAIRY.prefix, 3)
FORMULA = Gtin(DAIRY.prefix, 10)

PRODUCTS = (
    Product("milk", "farm", MILK, "Raw cow's milk", "生牛乳", "raw_milk", 3, "KGM"),
    Product("powder", "dairy", POWDER, "Whole milk powder", "全脂乳粉", "milk_powder", 365, "KGM"),
    Product("lactose", "dairy", LACTOSE, "Lactose, food grade", "食品级乳糖", "ingredient", 730, "KGM"),
    Product("premix", "dairy", PREMIX, "Vitamin and mineral premix", "复配营养强化剂", "ingredient", 540, "KGM"),
    Product(
        "formula",
        "dairy",
        FORMULA,
        "Infant formula stage 1, 900 g tin",
        "婴儿配方乳粉1段 900克罐装",
        "infant_formula",
        730,
        "EA",
    ),
)

PLACES: tuple[Place, ...] = (
    site("north-farm", FARM, 101, name_en="North pasture", name_zh="北牧场", city="Qiqihar",
         address="Qiqihar, Heilongjiang (demo)"),
    site("south-farm", FARM, 102, name_en="South pasture", name_zh="南牧场", city="Daqing",
         address="Daqing, Heilongjiang (demo)"),
    site("factory", DAIRY, 101, name_en="Dairy factory", name_zh="乳品工厂", city="Harbin",
         address="Harbin, Heilongjiang (demo)"),
    site("line-1", DAIRY, 101, extension="LINE1", name_en="Filling line 1", name_zh="1号灌装线", city="Harbin",
         address="Harbin, Heilongjiang (demo)"),
    site("laboratory", LAB, 101, name_en="Food laboratory", name_zh="食品检测实验室", city="Changchun",
         address="Changchun, Jilin (demo)"),
    site("bonded", WAREHOUSE, 101, name_en="Bonded warehouse", name_zh="保税仓库", city="Tianjin",
         address="Tianjin port (demo)"),
    site("zone-a", WAREHOUSE, 101, extension="A", name_en="Warehouse zone A", name_zh="仓库A区", city="Tianjin",
         address="Tianjin port (demo)"),
    site("zone-b", WAREHOUSE, 101, extension="B", name_en="Warehouse zone B", name_zh="仓库B区", city="Tianjin",
         address="Tianjin port (demo)"),
    site("stores-shanghai", STORES, 101, name_en="Mother & baby store, Shanghai", name_zh="母婴店(上海)",
         city="Shanghai", address="Shanghai (demo)"),
    site("market-beijing", MARKET, 101, name_en="Supermarket, Beijing", name_zh="超市(北京)", city="Beijing",
         address="Beijing (demo)"),
)  # fmt: skip

_SHOP = ("receiving", "unpacking", "stocking", "holding", "removing", "inspecting")
_TRUCK = ("loading", "transporting", "arriving", "departing", "unloading")

DEVICES: tuple[DeviceSpec, ...] = (
    DeviceSpec("tank-north", "farm", "TANK1", "production", "north-farm", "Milk tank, north", "北牧场奶罐",
               ("creating_class_instance", "storing", "shipping"), ("milk",)),
    DeviceSpec("tank-south", "farm", "TANK2", "production", "south-farm", "Milk tank, south", "南牧场奶罐",
               ("creating_class_instance", "storing", "shipping"), ("milk",)),
    DeviceSpec("tanker", "carrier", "TANKER1", "logistics", "", "Milk tanker", "奶罐车", _TRUCK, ("milk",)),
    DeviceSpec("intake", "dairy", "INTAKE", "inspection", "factory", "Milk intake", "收奶台",
               ("receiving", "inspecting")),
    DeviceSpec("dryer", "dairy", "DRYER", "production", "factory", "Spray dryer", "喷雾干燥塔",
               ("commissioning", "storing"), ("milk", "powder")),
    DeviceSpec("filler", "dairy", "FILLER1", "production", "line-1", "Blender and filler", "混料灌装机",
               ("commissioning", "sampling")),
    DeviceSpec("coder", "dairy", "CODER1", "production", "line-1", "Tin coder", "罐体赋码机",
               ("commissioning",), ("formula",)),
    DeviceSpec("checkweigher", "dairy", "WEIGH1", "inspection", "line-1", "Check weigher", "检重秤",
               ("inspecting",), ("formula",)),
    DeviceSpec("packer", "dairy", "PACK1", "production", "line-1", "Box packer", "装箱机", ("packing",)),
    DeviceSpec("palletiser", "dairy", "PALLET1", "production", "factory", "Palletiser", "码垛机", ("packing",)),
    DeviceSpec("quality", "dairy", "QC1", "inspection", "factory", "Quality office", "质量管理终端",
               ("sampling", "inspecting", "holding", "destroying")),
    DeviceSpec("factory-dock", "dairy", "DOCK1", "logistics", "factory", "Factory dock", "工厂发货口",
               ("shipping", "staging_outbound", "loading")),
    DeviceSpec("bench", "lab", "BENCH1", "inspection", "laboratory", "Laboratory bench", "实验室检测台",
               ("receiving", "inspecting")),
    DeviceSpec("warehouse-dock", "warehouse", "DOCK1", "warehouse", "bonded", "Warehouse dock", "仓库月台",
               ("receiving", "accepting", "inspecting", "shipping", "staging_outbound")),
    DeviceSpec("handheld", "warehouse", "SCAN1", "warehouse", "bonded", "Warehouse hand scanner", "仓库手持终端",
               ("storing", "picking", "cycle_counting", "stock_taking", "holding")),
    DeviceSpec("logger-a", "warehouse", "LOGA", "warehouse", "zone-a", "Climate logger A", "A区温湿度记录仪",
               ("storing", "sensor_reporting")),
    DeviceSpec("logger-b", "warehouse", "LOGB", "warehouse", "zone-b", "Climate logger B", "B区温湿度记录仪",
               ("storing", "sensor_reporting")),
    DeviceSpec("truck-1", "carrier", "TRUCK1", "logistics", "", "Truck 1", "1号货车", _TRUCK),
    DeviceSpec("truck-2", "carrier", "TRUCK2", "logistics", "", "Truck 2", "2号货车", _TRUCK),
    DeviceSpec("truck-3", "carrier", "TRUCK3", "logistics", "", "Truck 3", "3号货车", _TRUCK),
    DeviceSpec("stores-handheld", "stores", "SCAN1", "retail", "stores-shanghai", "Store hand scanner",
               "母婴店手持终端", _SHOP),
    DeviceSpec("stores-pos", "stores", "POS1", "retail", "stores-shanghai", "Store till", "母婴店收银机",
               ("retail_selling",), ("formula",)),
    DeviceSpec("market-handheld", "market", "SCAN1", "retail", "market-beijing", "Supermarket hand scanner",
               "超市手持终端", _SHOP),
    DeviceSpec("market-pos", "market", "POS1", "retail", "market-beijing", "Supermarket till", "超市收银机",
               ("retail_selling",), ("formula",)),
)  # fmt: skip


def dairy_cast(ownership: tuple[Ownership, ...] = ()) -> Cast:
    """The cast of the infant formula story, with who owns which of its goods."""
    return Cast(ORGANISATIONS, PLACES, PRODUCTS, DEVICES, ownership)
