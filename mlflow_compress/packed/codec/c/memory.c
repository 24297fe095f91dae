/* Memory from the workspace that the caller gives: nothing is allocated. */
#include "tree.h"

mlc_error mlc_take_memory(state *s, size_t size, void *out)
{
    size = (size + 63) & ~(size_t)63;
    if ((size_t)(s->work_end - s->work) < size) return MLC_WORKSPACE;
    uint8_t *memory = s->work;
    s->work += size;
    memcpy(out, &memory, sizeof memory);
    return MLC_OK;
}
