import NBD
import Testing
