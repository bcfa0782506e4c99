#include "libfuzzer.h"

// What libFuzzer's own main would call: that main is linked, but the program's is another. See FuzzDriver.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    (void)data;
    (void)size;
    return -1;
}
