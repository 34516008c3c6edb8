# SPDX-License-Identifier: LGPL-2.1-or-later
"""Types of variables as C declares them, because BTF has the types of few variables."""

from __future__ import annotations

import re
from collections.abc import Iterator

from drgn import Program, Type

#: The variables that drgn's helpers and ours use. Add a line for one that is missing. If a name has
#: several declarations, the first whose type this kernel has counts. A length is left out if it
#: depends on the configuration, and const if some versions do not have it.
DECLARATIONS = """
# Tasks, namespaces, users
struct task_struct init_task;
struct pid_namespace init_pid_ns;
struct user_namespace init_user_ns;
struct uts_namespace init_uts_ns;
struct ipc_namespace init_ipc_ns;
struct cgroup_namespace init_cgroup_ns;
struct time_namespace init_time_ns;
struct nsproxy init_nsproxy;
struct cred init_cred;
struct mm_struct init_mm;
struct files_struct init_files;
struct fs_struct init_fs;
struct css_set init_css_set;
struct cgroup_root cgrp_dfl_root;
struct list_head cgroup_roots;
struct cgroup_subsys *cgroup_subsys[];
struct task_group root_task_group;
struct list_head task_groups;
struct hlist_head uidhash_table[128];
const char *const task_state_array[9];
int nr_threads;
unsigned long total_forks;
unsigned long avenrun[3];

# Files, mounts, devices
struct list_head super_blocks;
struct super_block *blockdev_superblock;
struct hlist_head *mount_hashtable;
struct hlist_bl_head *dentry_hashtable;
struct hlist_head *inode_hashtable;
const struct file_operations socket_file_ops;
const struct file_operations ns_file_operations;
struct char_device_struct *chrdevs[255];
struct kobj_map *cdev_map;
struct blk_major_name *major_names[255];
struct kernfs_node *sysfs_root_kn;
struct class block_class;
struct kobj_type device_ktype;
struct kobj_type driver_ktype;
struct kobj_type class_ktype;
struct kobj_type bus_ktype;
struct kobj_type module_ktype;
struct kset *class_kset;
struct kset *bus_kset;
struct bus_type memory_subsys;
struct bus_type pci_bus_type;
struct list_head pci_root_buses;
struct resource ioport_resource;
struct resource iomem_resource;
unsigned int sysctl_nr_open;
int ipc_mni_shift;

# Sockets
struct net init_net;
struct list_head net_namespace_list;
struct inet_hashinfo tcp_hashinfo;
struct udp_table udp_table;
struct udp_table udplite_table;
struct raw_hashinfo raw_v4_hashinfo;
struct raw_hashinfo raw_v6_hashinfo;
struct ping_table ping_table;
struct hlist_head unix_socket_table[512];
struct token_bucket *token_hash;
unsigned int token_mask;
int pm_nl_pernet_id;
struct netlink_table *nl_table;
struct neigh_table arp_tbl;
struct list_head proto_list;
struct proto tcp_prot;
struct proto tcpv6_prot;
struct proto udp_prot;
struct proto udpv6_prot;
struct proto raw_prot;
struct proto rawv6_prot;
struct proto unix_proto;
struct proto netlink_proto;
struct proto packet_proto;
long sysctl_tcp_mem[3];
struct list_head inetsw[];
struct list_head inetsw6[];

# Modules, BPF, messages, version
struct list_head modules;
struct mod_tree_root mod_tree;
struct list_head btf_modules;
struct idr btf_idr;
struct idr prog_idr;
struct idr map_idr;
struct idr link_idr;
struct printk_ringbuffer *prb;
char *log_buf;
const char linux_banner[];
char *saved_command_line;
unsigned long tainted_mask;
const struct taint_flag taint_flags[];

# Time
unsigned long volatile jiffies;
u64 jiffies_64;
unsigned long tick_nsec;
unsigned long loops_per_jiffy;
struct clocksource clocksource_jiffies;
struct tk_data timekeeper_data[];

# Processors and interrupts
unsigned int nr_cpu_ids;
struct cpumask __cpu_online_mask;
struct cpumask __cpu_possible_mask;
struct cpumask __cpu_present_mask;
struct cpumask __cpu_active_mask;
const unsigned long cpu_all_bits[];
unsigned long __per_cpu_offset[];
atomic_t panic_cpu;
int crashing_cpu;
struct maple_tree sparse_irqs;
struct xarray irq_desc_tree;
struct radix_tree_root irq_desc_tree;
int nr_irqs;
unsigned int total_nr_irqs;
gate_desc idt_table[256];
struct softirq_action softirq_vec[NR_SOFTIRQS];
struct timer_list poll_spurious_irq_timer;

# Memory
unsigned long page_offset_base;
unsigned long vmalloc_base;
unsigned long vmemmap_base;
unsigned long phys_base;
struct mem_section **mem_section;
unsigned long __highest_present_section_nr;
struct pglist_data *node_data[];
nodemask_t node_states[NR_NODE_STATES];
unsigned int nr_node_ids;
unsigned long max_pfn;
unsigned long max_low_pfn;
unsigned long min_low_pfn;
struct memblock memblock;
atomic_long_t _totalram_pages;
atomic_long_t vm_node_stat[NR_VM_NODE_STAT_ITEMS];
atomic_long_t vm_zone_stat[NR_VM_ZONE_STAT_ITEMS];
atomic_long_t vm_numa_event[NR_VM_NUMA_EVENT_ITEMS];
atomic_long_t vm_numa_stat[NR_VM_NUMA_STAT_ITEMS];
struct percpu_counter vm_committed_as;
int sysctl_overcommit_ratio;
unsigned long sysctl_overcommit_kbytes;
struct list_head slab_caches;
struct kset *slab_kset;
struct kmem_cache *task_struct_cachep;
struct kmem_cache *files_cachep;
struct kmem_cache *filp_cachep;
struct kmem_cache *dentry_cache;
struct kmem_cache *sock_inode_cachep;
struct list_head vmap_area_list;
struct rb_root vmap_area_root;
struct vmap_node *vmap_nodes;
unsigned int nr_vmap_nodes;
unsigned int vmap_zone_size;
struct hstate hstates[];
int hugetlb_max_hstate;
struct swap_info_struct *swap_info[];
struct address_space *swapper_spaces[];
unsigned int nr_swapper_spaces[];
unsigned int nr_swapfiles;
atomic_long_t nr_swap_pages;
long total_swap_pages;

# Per processor: BTF itself has these where pahole was not too old, but not in Debian's 5.10.
struct rq runqueues;
struct hrtimer_cpu_base hrtimer_bases;
struct timer_base timer_bases[2];
struct vm_event_state vm_event_states;
unsigned long process_counts;
struct task_struct *current_task;
int cpu_number;
struct cpuinfo_x86 cpu_info;
struct exception_stacks exception_stacks;
"""

_DECLARATION = (
    r"\s*(?P<type>[A-Za-z_][\w\s*]*?[\s*])(?P<name>[A-Za-z_]\w*)\s*(?P<lengths>(\[\w*\])*)\s*;?\s*"
)


def parse(text: str) -> Iterator[tuple[str, str]]:
    """
    Read declarations of variables, one to a line.

    :return: Names, and their types as C writes them without a name
    :raises ValueError: if a line is no declaration
    """
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(_DECLARATION, line)
        if match is None:
            raise ValueError(
                f"not a declaration of a variable, such as struct net init_net: {line}"
            )
        yield match["name"], f"{match['type'].strip()} {match['lengths']}".strip()


class Declarations:
    """
    Variables of a kernel with the types that are declared for them.

    :param text: The first declarations; each is parsed when its variable is asked for.
    """

    def __init__(self, prog: Program, text: str = "") -> None:
        self._prog = prog
        self._text = text
        self._types: dict[str, list[str]] = {}

    def add(self, text: str) -> None:
        """
        Declare more variables. They take precedence over earlier ones of the same name.

        :raises ValueError: if a line is no declaration
        """
        fresh: dict[str, list[str]] = {}
        for name, type_ in parse(text):
            fresh.setdefault(name, []).append(type_)
        for name, types in fresh.items():
            self._types[name] = types + self._types.get(name, [])

    def _declared(self, name: str) -> list[str]:
        found = self._types.get(name, [])
        if name in self._text:
            lines = "\n".join(line for line in self._text.splitlines() if name in line)
            found = found + [type_ for declared, type_ in parse(lines) if declared == name]
        return found

    def type(self, name: str) -> Type | None:
        """The declared type of a variable; ``None`` if the kernel has no such type."""
        for declared in self._declared(name):
            try:
                return self._prog.type(re.sub(r"\[([A-Za-z_]\w*)\]", self._length, declared))
            except LookupError:
                pass
        return None

    def _length(self, match: re.Match[str]) -> str:
        return f"[{self._prog.constant(match[1]).value_()}]"
