# SPDX-License-Identifier: LGPL-2.1-or-later
"""Types of variables as C declares them, because BTF has the types of few variables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from drgn import FaultError, Object, Program, Symbol, Type, TypeMember, alignof, sizeof

#: The variables that drgn's helpers, commands, tools and tests use, and ours. Add a line for one
#: that is missing. If a name has several declarations, the first counts whose type this kernel has;
#: one with const counts only if the variable is in read-only data. A length is left out if it
#: depends on the configuration, and const if some versions do not have it. longs(TYPE) is a length
#: in longs; filled is a length up to the last element that is not zero, for an array that drgn
#: loops over. Of a variable with static, all symbols of the name are looked at: other files may
#: have the name. WITH(NAME) before a declaration is a condition: the kernel has the symbol NAME.
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
const struct file_operations def_blk_fops;
struct kernfs_node *sysfs_root_kn;
static struct kernfs_root *sysfs_root;
struct kobject *kernel_kobj;
struct class block_class;
# Newer kernels have it as a constant, older ones make it at boot.
const struct class mem_class;
struct class *mem_class;
struct kobj_type device_ktype;
struct kobj_type driver_ktype;
struct kobj_type class_ktype;
struct kobj_type bus_ktype;
struct kobj_type module_ktype;
struct kset *class_kset;
struct kset *bus_kset;
struct bus_type memory_subsys;
struct bus_type node_subsys;
struct bus_type cpu_subsys;
struct bus_type platform_bus_type;
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
const char vermagic[];
char *saved_command_line;
unsigned long tainted_mask;
const struct taint_flag taint_flags[filled];

# Time
unsigned long volatile jiffies;
u64 jiffies_64;
unsigned long tick_nsec;
unsigned long loops_per_jiffy;
struct clocksource clocksource_jiffies;
struct tk_data timekeeper_data[];
struct tk_data tk_core;
# Before the structure got a name, in 6.13.
struct { seqcount_raw_spinlock_t seq; struct timekeeper timekeeper; } tk_core;
struct { seqcount_t seq; struct timekeeper timekeeper; } tk_core;

# Processors and interrupts
unsigned int nr_cpu_ids;
struct cpumask __cpu_online_mask;
struct cpumask __cpu_possible_mask;
struct cpumask __cpu_present_mask;
struct cpumask __cpu_active_mask;
const unsigned long cpu_all_bits[];
const unsigned long cpu_bit_bitmap[65][longs(struct cpumask)];
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
int sections_per_block;
unsigned long max_low_pfn;
unsigned long min_low_pfn;
struct memblock memblock;
atomic_long_t _totalram_pages;
atomic_long_t vm_node_stat[NR_VM_NODE_STAT_ITEMS];
atomic_long_t vm_zone_stat[NR_VM_ZONE_STAT_ITEMS];
atomic_long_t vm_numa_event[NR_VM_NUMA_EVENT_ITEMS];
atomic_long_t vm_numa_stat[NR_VM_NUMA_STAT_ITEMS];
struct percpu_counter vm_committed_as;
int percpu_counter_batch;
unsigned long fault_around_bytes;
const struct trace_print_flags gfpflag_names[filled];
struct vm_area_struct gate_vma;
struct list_head kclist_head;
struct rb_root uprobes_tree;
int sysctl_overcommit_ratio;
unsigned long sysctl_overcommit_kbytes;
struct list_head slab_caches;
struct kset *slab_kset;
struct kmem_cache *task_struct_cachep;
struct kmem_cache *files_cachep;
struct kmem_cache *filp_cachep;
struct kmem_cache *dentry_cache;
struct kmem_cache *mm_cachep;
struct kmem_cache *mnt_cache;
struct kmem_cache *uid_cachep;
struct kmem_cache *sock_inode_cachep;
struct list_head vmap_area_list;
struct rb_root vmap_area_root;
struct vmap_node *vmap_nodes;
static struct vmap_node single;
unsigned int nr_vmap_nodes;
unsigned int vmap_zone_size;
struct hstate hstates[];
int hugetlb_max_hstate;
struct swap_info_struct *swap_info[];
struct address_space *swapper_spaces[filled];
unsigned int nr_swapper_spaces[filled];
unsigned int nr_swapfiles;
atomic_long_t nr_swap_pages;
long total_swap_pages;
struct plist_head swap_active_head;

# Newer kernels allocate it at boot, as long as stack_max_pools says.
WITH(stack_max_pools) void **stack_pools;
void *stack_pools[];
void *stack_slabs[];

# Per processor: BTF itself has these where pahole was not too old, but not in Debian's 5.10.
struct rq runqueues;
struct hrtimer_cpu_base hrtimer_bases;
struct timer_base timer_bases[2];
struct vm_event_state vm_event_states;
unsigned long process_counts;
struct task_struct *current_task;
int cpu_number;
struct irq_stack *hardirq_stack_ptr;
struct cpuinfo_x86 cpu_info;
struct exception_stacks exception_stacks;
"""

# More elements than any such array has.
_MAX_FILLED = 256

_DECLARATION = re.compile(
    r"\s*(?P<conditions>((static|WITH\(\w+\))\s+)*)"
    r"(?P<type>(struct\s*{(?P<members>[\w\s*;\[\]]+)}|[A-Za-z_][\w\s*]*?)[\s*])(?P<name>[A-Za-z_]\w*)"
    r"\s*(?P<lengths>(\[(\w*|longs\([\w ]+\))\])*)\s*;?\s*"
)


class Declared(NamedTuple):
    """The declaration of a variable."""

    name: str
    #: The type as C writes it without a name; for a structure without a tag, its members.
    type: str
    #: Whether the type is such members.
    nameless: bool = False
    #: Whether other files may have a variable of this name.
    static: bool = False
    #: A symbol without which the declaration does not count.
    symbol: str | None = None


def parse(text: str) -> Iterator[Declared]:
    """
    Read declarations of variables, one to a line.

    :raises ValueError: if a line is no declaration
    """
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        match = _DECLARATION.fullmatch(line)
        if match is None:
            raise ValueError(
                f"not a declaration of a variable, such as struct net init_net: {line}"
            )
        members = match["members"]
        type_ = members or f"{match['type'].strip()} {match['lengths']}"
        symbol = re.search(r"WITH\((\w+)\)", match["conditions"])
        yield Declared(
            match["name"],
            type_.strip(),
            nameless=bool(members),
            static="static" in match["conditions"].split(),
            symbol=symbol[1] if symbol else None,
        )


class Declarations:
    """
    Variables of a kernel with the types that are declared for them.

    :param text: The first declarations; each is parsed when its variable is asked for.
    """

    def __init__(self, prog: Program, text: str = "") -> None:
        self._prog = prog
        self._text = text
        self._types: dict[str, list[Declared]] = {}

    def add(self, text: str) -> None:
        """
        Declare more variables. They take precedence over earlier ones of the same name.

        :raises ValueError: if a line is no declaration
        """
        fresh: dict[str, list[Declared]] = {}
        for declared in parse(text):
            fresh.setdefault(declared.name, []).append(declared)
        for name, types in fresh.items():
            self._types[name] = types + self._types.get(name, [])

    def _declared(self, name: str) -> list[Declared]:
        found = self._types.get(name, [])
        if name in self._text:
            lines = "\n".join(line for line in self._text.splitlines() if name in line)
            found = found + [declared for declared in parse(lines) if declared.name == name]
        return found

    def object(self, name: str, *, in_a_file: bool = False) -> Object | None:
        """
        The variable of a name; ``None`` if none is declared, or the kernel lacks its type.

        :param in_a_file: It is asked for with the name of a file, which symbols do not have.
        """
        candidates = self._declared(name)
        for declared in candidates:
            type_ = self._type(declared)
            if type_ is None or (declared.symbol and not self._symbols(declared.symbol)):
                continue
            if not (in_a_file or declared.static):
                symbols = self._symbols(name)[:1]
            else:
                symbols = self._prog.symbols(name)
                if len(symbols) > 1:
                    # Each extends to the next symbol.
                    symbols = [s for s in symbols if s.size == sizeof(type_)]
                    if len(symbols) > 1:
                        continue
            if not symbols:
                continue
            is_const = declared.type.startswith("const ") and "*" not in declared.type
            if len(candidates) > 1 and is_const and not self._is_read_only(symbols[0].address):
                continue
            if "[filled]" in declared.type:
                type_ = self._filled(type_, symbols[0])
            return Object(self._prog, type_, address=symbols[0].address)
        return None

    def _filled(self, array: Type, symbol: Symbol) -> Type:
        # A symbol extends to the next one, which may leave a gap.
        size = sizeof(array.type)
        room = min(symbol.size // size, _MAX_FILLED)
        try:
            data = self._prog.read(symbol.address, room * size)
        except FaultError:
            return array
        if not room:
            return array
        return self._prog.array_type(array.type, -(-len(data.rstrip(b"\0")) // size))

    def _symbols(self, name: str) -> list[Symbol]:
        try:
            return [self._prog.symbol(name)]
        except LookupError:
            return []

    def _is_read_only(self, address: int) -> bool:
        start, end = (self._symbols(name) for name in ("__start_rodata", "__end_rodata"))
        return bool(start and end) and start[0].address <= address < end[0].address

    def _type(self, declared: Declared) -> Type | None:
        try:
            if declared.nameless:
                return self._struct(declared.type)
            if declared.type.endswith("[filled]"):
                return self._prog.type(declared.type.replace("[filled]", "[]"))
            lengths = r"\[([A-Za-z_][^]]*)\]"
            return self._prog.type(re.sub(lengths, self._length, declared.type))
        except LookupError:
            return None

    def _struct(self, text: str) -> Type:
        members = []
        end = largest = 0
        for member in parse("\n".join(filter(str.strip, text.split(";")))):
            type_ = self._prog.type(member.type)
            start = end + -end % alignof(type_)
            members.append(TypeMember(type_, member.name, bit_offset=8 * start))
            end = start + sizeof(type_)
            largest = max(largest, alignof(type_))
        return self._prog.struct_type(None, end + -end % largest, members)

    def _length(self, match: re.Match[str]) -> str:
        if match[1].startswith("longs("):
            size = sizeof(self._prog.type(match[1][len("longs(") : -1]))
            return f"[{size // sizeof(self._prog.type('long'))}]"
        return f"[{self._prog.constant(match[1]).value_()}]"
