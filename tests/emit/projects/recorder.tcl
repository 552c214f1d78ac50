# Runs a script for Vivado where there is none: tclsh recorder.tcl LOG ANSWERS SCRIPT ?ARGUMENT ...?
#
# Each command that a script may call is declared below with its options: those that stand alone,
# and those that take a value. Another command or option is an error. Calls go into the file LOG,
# one a line, words parted by tabs. ANSWERS is a dictionary of what commands answer, by the command
# with its arguments as a pattern (such as "get_property STATS.WNS *"); what it does not name
# answers the call itself, which is enough to pass on.

set log [open [lindex $argv 0] w]
set answers [lindex $argv 1]
set directory ""

proc plain {text} {
    return [string map {\t " " \n " "} $text]
}

# alone: options without a value; valued: options with one.
proc declare {name alone {valued {}}} {
    interp alias {} $name {} record $name $alone $valued
}

namespace eval answer_ipx {}

proc record {name alone valued args} {
    set words [list $name {*}$args]
    for {set k 0} {$k < [llength $args]} {incr k} {
        set word [lindex $args $k]
        if {$word in $valued} {
            incr k
            if {$k == [llength $args]} {
                error "$name: $word wants a value"
            }
        } elseif {[string match -* $word] && ![string is double -strict $word]
                && $word ni $alone} {
            error "$name has no option $word"
        }
    }
    puts $::log [join [lmap word $words {plain $word}] \t]
    dict for {pattern answer} $::answers {
        if {[string match $pattern [join $words " "]]} {
            return $answer
        }
    }
    if {[info commands answer_$name] ne ""} {
        return [answer_$name {*}$args]
    }
    # Without spaces, so that it is one word of a list.
    return "<[string map {" " ,} [join $words ,]]>"
}

declare add_files {-norecurse} {-fileset}
declare apply_bd_automation {} {-rule -config}
declare assign_bd_address {-force} {-offset -range -target_address_space}
declare close_project {-delete}
declare connect_bd_intf_net {} {-boundary_type}
declare connect_bd_net {} {-net}
declare create_bd_cell {} {-type -vlnv -reference}
declare create_bd_design {} {-dir}
declare create_clock {} {-name -period -waveform}
declare create_project {-force -in_memory} {-part}
declare current_fileset {} {}
declare current_project {-quiet} {}
declare generate_target {-force} {}
declare get_bd_addr_segs {-quiet} {-of_objects -filter}
declare get_bd_addr_spaces {-quiet} {-of_objects -filter}
declare get_bd_cells {-quiet -hierarchical} {-of_objects -filter}
declare get_bd_intf_pins {-quiet} {-of_objects -filter}
declare get_bd_pins {-quiet} {-of_objects -filter}
declare get_board_parts {-quiet -latest_file_version} {-filter}
declare get_cells {-quiet -hierarchical} {-of_objects -filter}
declare get_files {-quiet} {-of_objects -filter}
declare get_ipdefs {-quiet -all} {-filter}
declare get_ports {-quiet} {-filter}
declare get_property {-quiet} {}
declare get_runs {-quiet} {-filter}
declare get_timing_paths {-setup -hold} {-max_paths -nworst}
declare ipx::add_bus_parameter {-quiet} {}
declare ipx::add_register {-quiet} {}
declare ipx::add_register_parameter {-quiet} {}
declare ipx::associate_bus_interfaces {-clear} {-busif -clock -reset}
declare ipx::check_integrity {-quiet} {}
declare ipx::create_xgui_files {} {}
declare ipx::current_core {} {}
declare ipx::get_address_blocks {-quiet} {-of_objects}
declare ipx::get_bus_interfaces {-quiet} {-of_objects -filter}
declare ipx::get_memory_maps {-quiet} {-of_objects}
declare ipx::infer_bus_interface {} {}
declare ipx::package_project {-import_files -force} {
    -root_dir -vendor -library -name -taxonomy -set_current
}
declare ipx::save_core {} {}
declare ipx::update_checksums {} {}
declare launch_runs {} {-to_step -jobs}
declare make_wrapper {-top -import} {-files -fileset}
declare open_run {} {-name}
declare opt_design {} {-directive}
declare package_xo {-force} {
    -xo_path -kernel_name -ip_directory -ctrl_protocol -kernel_xml -output_kernel_xml
}
declare place_design {} {-directive}
declare read_mem {} {}
declare read_verilog {-sv} {-library}
declare read_xdc {-unmanaged} {-mode}
declare report_timing_summary {} {-file}
declare report_utilization {-hierarchical -return_string} {-cells -file}
declare route_design {} {-directive}
declare save_bd_design {} {}
declare set_msg_config {} {-id -new_severity}
declare set_property {} {-dict}
declare synth_design {} {-top -part -mode -flatten_hierarchy}
declare update_compile_order {} {-fileset}
declare update_ip_catalog {-rebuild} {}
declare validate_bd_design {-force} {}
declare wait_on_run {} {-timeout}
declare write_hw_platform {-fixed -include_bit -force} {-file}

proc answer_create_project {args} {
    foreach word $args {
        if {[string match */* $word]} {
            set ::directory $word
        }
    }
}

# Packages interfaces that are found by their names, and leaves the others to the script.
proc answer_ipx::get_bus_interfaces {args} {
    foreach word $args {
        if {$word in {interrupt}} {
            return {}
        }
    }
    return $args
}

# A run leaves a bitstream, and the description of the block design.
proc answer_launch_runs {args} {
    foreach path {
        build.runs/impl_1/design_wrapper.bit
        build.gen/sources_1/bd/design/hw_handoff/design.hwh
    } {
        set path [file join $::directory $path]
        file mkdir [file dirname $path]
        close [open $path w]
    }
}

proc answer_get_property {args} {
    switch -glob [lindex $args 0] {
        PROGRESS { return 100% }
        STATS.* - SLACK { return 0.125 }
        CONFIG.FREQ_HZ { return 249997498 }
        DIRECTORY { return [file join $::directory build.runs impl_1] }
        default { return "<[lindex $args 0],of,[lindex $args 1]>" }
    }
}

proc answer_report_utilization {args} {
    return "
| Site Type      | Used  | Fixed | Available | Util% |
| CLB LUTs*      | 12345 |     0 |    230400 |  5.36 |
| CLB Registers  | 23456 |     0 |    460800 |  5.09 |
| Block RAM Tile |  10.5 |     0 |       312 |  3.37 |
| DSPs           |    77 |     0 |      1728 |  4.46 |
"
}

proc unknown {name args} {
    error "$name is no command of Tcl, and none that is declared"
}

set script [lindex $argv 2]
set argv [lrange $argv 3 end]
set argc [llength $argv]
if {[catch {source $script} message options]} {
    puts stderr [dict get $options -errorinfo]
    exit 1
}
