#include "ring_reference.h"
#include <string.h>
#define __XEN_INTERFACE_VERSION__ __XEN_LATEST_INTERFACE_VERSION__
#include <xen/xen-compat.h>
#include <xen/io/blkif.h>

#define ABI(name) x86_64_##name
typedef struct blkif_request request_t;
typedef struct blkif_request_discard discard_t;
typedef struct blkif_request_indirect indirect_t;
typedef struct blkif_response response_t;
#include "functions.h"
