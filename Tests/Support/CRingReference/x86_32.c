#include "ring_reference.h"
#include <string.h>
#define __XEN_INTERFACE_VERSION__ __XEN_LATEST_INTERFACE_VERSION__
#include <xen/xen-compat.h>
// On i386 a 64-bit integer in a struct is aligned to 4 bytes; everything else is as on x86_64. `#pragma pack(4)`
// lays the header's own structs out that way.
#include <xen/grant_table.h>
#define __i386__ 1
#pragma pack(push, 4)
#include <xen/io/blkif.h>
#pragma pack(pop)
#undef __i386__

#define ABI(name) x86_32_##name
typedef struct blkif_request request_t;
typedef struct blkif_request_discard discard_t;
typedef struct blkif_request_indirect indirect_t;
typedef struct blkif_response response_t;
#include "functions.h"
