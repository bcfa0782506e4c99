import BlockModel
