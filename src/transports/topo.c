/* SPDX-License-Identifier: BSD-3-Clause */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif
#include "transports/topo.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>
#ifdef HAVE_HWLOC
#include <hwloc.h>
#endif

static tw_topo topo;

#ifdef HAVE_HWLOC
/* Cores with at least one hardware thread that this process is bound to. */
static uint32_t hwloc_cores(hwloc_topology_t t) {
    hwloc_bitmap_t mine = hwloc_bitmap_alloc();
    uint32_t cores = 0;
    if (!mine)
        return 0;
    if (hwloc_get_cpubind(t, mine, HWLOC_CPUBIND_PROCESS) != 0)
        hwloc_bitmap_fill(mine);
    hwloc_obj_type_t type = hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_CORE) > 0 ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
    for (hwloc_obj_t o = NULL; (o = hwloc_get_next_obj_by_type(t, type, o)) != NULL;)
        cores += hwloc_bitmap_intersects(o->cpuset, mine) ? 1 : 0;
    hwloc_bitmap_free(mine);
    return cores;
}

static bool look_with_hwloc(void) {
    hwloc_topology_t t;
    if (hwloc_topology_init(&t) != 0)
        return false;
    bool loaded = hwloc_topology_load(t) == 0;
    if (loaded) {
        hwloc_obj_t l2 = hwloc_get_obj_by_type(t, HWLOC_OBJ_L2CACHE, 0);
        unsigned v = hwloc_get_api_version();
        topo.cores = hwloc_cores(t);
        topo.l2_bytes = l2 && l2->attr ? l2->attr->cache.size : 0;
        snprintf(topo.source, sizeof topo.source, "hwloc (interface %u.%u)", v >> 16, v >> 8 & 0xff);
    }
    hwloc_topology_destroy(t);
    return loaded && topo.cores > 0;
}
#define WHY_NOT "hwloc failed"
#else
static bool look_with_hwloc(void) {
    return false;
}
#define WHY_NOT "built without hwloc"
#endif

static void look_with_system(void) {
    long l2 = -1;
#ifdef _SC_LEVEL2_CACHE_SIZE
    l2 = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    topo.l2_bytes = l2 > 0 ? (uint64_t)l2 : 0;
#ifdef CPU_COUNT
    cpu_set_t mine;
    if (sched_getaffinity(0, sizeof mine, &mine) == 0) {
        topo.cores = (uint32_t)CPU_COUNT(&mine);
        snprintf(topo.source, sizeof topo.source, "sched_getaffinity and sysconf (%s; hardware threads)", WHY_NOT);
        return;
    }
#endif
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    topo.cores = online > 0 ? (uint32_t)online : 1;
    snprintf(topo.source, sizeof topo.source, "sysconf (%s; hardware threads, binding not known)", WHY_NOT);
}

static void look(void) {
    if (!look_with_hwloc())
        look_with_system();
}

const tw_topo *tw_topo_get(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, look);
    return &topo;
}

void tw_topology(uint32_t *cores, uint64_t *l2_bytes, const char **source) {
    const tw_topo *t = tw_topo_get();
    if (cores)
        *cores = t->cores;
    if (l2_bytes)
        *l2_bytes = t->l2_bytes;
    if (source)
        *source = t->source;
}
