//! A guest over two disks: GPT with an ESP, swap and the root on `vda`, `/var` striped by LVM over both, `/home` on `vdb`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::content;
use crate::kernel::{Loop, Mounted, run, text};
use crate::kit::need::{can_loop, can_mount, has_all};
use crate::kit::place::Place;

const MIB: u64 = 1 << 20;
/// Where partitions begin, and how large they are, in MiB.
const ESP: (u64, u64) = (1, 16);
const SWAP: (u64, u64) = (17, 8);
const ROOT_AT: u64 = 25;
const PV_MIB: u64 = 40;
const VAR_MIB: u64 = 64;
const HOME_AT: u64 = 42;
const STRIPE: usize = 8192;
const ROOT_UUID: &str = "6d3a3c3e-8a34-4a0d-9f0e-0b8f4d2b7a01";
const ESP_PARTUUID: &str = "C12A7328-0000-4000-8000-00000000E591";

/// What `/home` is.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Home {
    Xfs,
    /// In the subvolume `@home`.
    Btrfs,
}

impl Home {
    const fn mib(self) -> u64 {
        match self {
            // mkfs.xfs makes nothing smaller.
            Self::Xfs => 300,
            Self::Btrfs => 128,
        }
    }

    const fn fstab(self) -> &'static str {
        match self {
            Self::Xfs => "LABEL=home /home xfs defaults 0 2",
            Self::Btrfs => "LABEL=home /home btrfs subvol=@home,compress=zstd 0 0",
        }
    }

    /// How the kernel mounts what the guest sees.
    pub(crate) const fn options(self) -> &'static str {
        match self {
            Self::Xfs => "loop,ro,norecovery",
            Self::Btrfs => "loop,ro,subvol=@home",
        }
    }
}

/// The images that the disks are made of, as long as the place is there.
pub(crate) struct Guest {
    pub(crate) place: Place,
    pub(crate) home: Home,
}

/// Whether guests can be made here; says SKIP when not.
pub(crate) fn ready() -> bool {
    let tools = [
        "sfdisk",
        "losetup",
        "lvm",
        "mkfs.ext4",
        "mkfs.xfs",
        "mkfs.btrfs",
        "mkfs.fat",
        "mcopy",
        "rsync",
        "setfacl",
        "setfattr",
        "setcap",
        "find",
    ];
    can_mount() && has_all(&tools) && can_loop()
}

impl Guest {
    /// Makes the images and both disks; the root has about `files` files.
    pub(crate) fn new(home: Home, files: usize) -> Self {
        let guest = Self {
            place: Place::new(),
            home,
        };
        let root_mib = guest.root_image(files);
        guest.var_image();
        guest.home_image();
        guest.esp_image();
        guest.disks(root_mib);
        guest
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }

    /// An image with a filesystem made by `mkfs`, filled by `fill` through the kernel.
    fn image(&self, name: &str, mib: u64, mkfs: &[&str], fill: impl FnOnce(&Path)) {
        let image = self.path(name);
        File::create(&image).unwrap().set_len(mib * MIB).unwrap();
        let arguments = [&mkfs[1..], &[text(&image)]].concat();
        run(mkfs[0], &arguments);
        let at = self.path("filled");
        let mounted = Mounted::new(&image, &at, "loop");
        fill(&at);
        drop(mounted);
    }

    fn root_image(&self, files: usize) -> u64 {
        let tree = self.path("root");
        std::fs::create_dir(&tree).unwrap();
        content::root(&tree, files);
        let put = |path: &str, text: String| content::put(&tree.join(path), text);
        put(
            "etc/fstab",
            format!(
                "# disks of this guest\nUUID={ROOT_UUID} / ext4 errors=remount-ro 0 1\n\
                 PARTUUID={} /boot/efi vfat umask=0077 0 1\n/dev/mapper/vg0-var /var ext4 defaults 0 2\n{}\n\
                 LABEL=swap none swap sw 0 0\ntmpfs /tmp tmpfs nosuid 0 0\n",
                ESP_PARTUUID.to_lowercase(),
                self.home.fstab()
            ),
        );
        let _ = std::fs::remove_file(tree.join("etc/os-release"));
        put(
            "etc/os-release",
            "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux, the guest\"\n".to_owned(),
        );
        for dir in ["boot/efi", "var", "home", "proc", "sys", "tmp"] {
            std::fs::create_dir_all(tree.join(dir)).unwrap();
        }
        put("home/below", "covered by the mount".to_owned());
        content::hard(&tree.join("hard"));
        let used: u64 = run("du", &["-s", "--block-size=1M", text(&tree)])
            .split_whitespace()
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let mib = used * 5 / 4 + 64;
        let mkfs = ["mkfs.ext4", "-q", "-F", "-U", ROOT_UUID];
        self.image("root.img", mib, &mkfs, |at| {
            run(
                "rsync",
                &[
                    "-aHAXS",
                    &format!("{}/", text(&tree)),
                    &format!("{}/", text(at)),
                ],
            );
        });
        mib
    }

    fn var_image(&self) {
        self.image("var.img", VAR_MIB, &["mkfs.ext4", "-q", "-F"], |at| {
            content::hard(&at.join("lib/hard"));
            content::put(&at.join("log/syslog"), "it began\n".repeat(40_000));
        });
    }

    fn home_image(&self) {
        let mkfs: &[&str] = match self.home {
            Home::Xfs => &["mkfs.xfs", "-q", "-L", "home"],
            Home::Btrfs => &["mkfs.btrfs", "-q", "-L", "home"],
        };
        self.image("home.img", self.home.mib(), mkfs, |at| {
            let top = match self.home {
                Home::Xfs => at.to_owned(),
                Home::Btrfs => {
                    let top = at.join("@home");
                    run("btrfs", &["subvolume", "create", text(&top)]);
                    content::put(&at.join("beside"), "not in the guest's tree");
                    top
                }
            };
            content::hard(&top.join("user"));
        });
    }

    fn esp_image(&self) {
        let image = self.path("esp.img");
        File::create(&image).unwrap().set_len(ESP.1 * MIB).unwrap();
        run("mkfs.fat", &["-n", "ESP", text(&image)]);
        let tree = self.path("efi");
        content::put(&tree.join("EFI/debian/grubx64.efi"), [0x4d; 70_000]);
        content::put(&tree.join("EFI/debian/A long name.cfg"), "search.fs_uuid\n");
        run(
            "mcopy",
            &["-s", "-i", text(&image), text(&tree.join("EFI")), "::"],
        );
    }

    fn disks(&self, root_mib: u64) {
        let pv = ROOT_AT + root_mib;
        let tables = [
            (
                "vda.raw",
                pv + PV_MIB + 2,
                format!(
                    "label: gpt\nstart={}MiB,size={}MiB,type=uefi,uuid={ESP_PARTUUID}\nstart={}MiB,size={}MiB,type=swap\n\
                     start={ROOT_AT}MiB,size={root_mib}MiB,type=linux\nstart={pv}MiB,size={PV_MIB}MiB,type=lvm\n",
                    ESP.0, ESP.1, SWAP.0, SWAP.1
                ),
            ),
            (
                "vdb.raw",
                HOME_AT + self.home.mib() + 2,
                format!(
                    "label: gpt\nstart=1MiB,size={PV_MIB}MiB,type=lvm\nstart={HOME_AT}MiB,size={}MiB,type=linux\n",
                    self.home.mib()
                ),
            ),
        ];
        for (name, mib, table) in tables {
            let disk = self.path(name);
            File::create(&disk).unwrap().set_len(mib * MIB).unwrap();
            content::put(&self.path("table"), table);
            let command = format!("sfdisk -q {} < {}", text(&disk), text(&self.path("table")));
            run("sh", &["-c", &command]);
        }
        self.place("esp.img", "vda.raw", ESP.0);
        self.place("root.img", "vda.raw", ROOT_AT);
        self.place("home.img", "vdb.raw", HOME_AT);
        let swap = Loop::new(&self.path("vda.raw"), SWAP.0 * MIB, SWAP.1 * MIB);
        run("mkswap", &["-q", "-L", "swap", &swap.0]);
        drop(swap);
        self.striped(&[("vda.raw", pv), ("vdb.raw", 1)]);
    }

    /// Copies an image to a place of a disk; holes stay holes.
    fn place(&self, image: &str, disk: &str, at_mib: u64) {
        let (image, disk) = (self.path(image), self.path(disk));
        let (from, to) = (
            format!("if={}", text(&image)),
            format!("of={}", text(&disk)),
        );
        let seek = format!("seek={at_mib}");
        run(
            "dd",
            &[
                "bs=1M",
                "conv=notrunc,sparse",
                "status=none",
                &from,
                &to,
                &seek,
            ],
        );
    }

    /// Makes the group over partitions of disks (each with its start in MiB), and writes `/var` to where `lvs` says that it lies.
    fn striped(&self, disks: &[(&str, u64)]) {
        let loops: Vec<Loop> = disks
            .iter()
            .map(|(disk, start)| Loop::new(&self.path(disk), start * MIB, PV_MIB * MIB))
            .collect();
        let names: Vec<&str> = loops.iter().map(|device| device.0.as_str()).collect();
        let lvm = |command: &str| {
            let seen: Vec<String> = names.iter().map(|n| format!("\"a|^{n}$|\"")).collect();
            let config = format!(
                "devices {{ filter=[{},\"r|.*|\"] use_devicesfile=0 }} backup {{ backup=0 archive=0 }} \
                 activation {{ udev_sync=0 udev_rules=0 }}",
                seen.join(",")
            );
            let mut words: Vec<&str> = command.split_whitespace().collect();
            words.extend(["--config", &config]);
            run("lvm", &words)
        };
        lvm(&format!("pvcreate -q {}", names.join(" ")));
        lvm(&format!("vgcreate -q -s 1M vg0 {}", names.join(" ")));
        lvm(&format!(
            "lvcreate --driverloaded n -an -Zn -Wn -y -n var -i 2 -I {} -L {VAR_MIB}M vg0",
            STRIPE / 1024
        ));
        let report = "--noheadings --units b --nosuffix --separator ; -o";
        let starts = lvm(&format!("pvs {report} pv_name,pe_start"));
        let segments = lvm(&format!(
            "lvs --driverloaded n --segments {report} stripe_size,devices vg0"
        ));
        let (stripe, devices) = segments.trim().split_once(';').unwrap();
        assert_eq!(stripe, STRIPE.to_string(), "{segments}");
        let areas: Vec<(&str, u64)> = devices
            .split(',')
            .map(|area| {
                let (device, extent) = area.strip_suffix(')').unwrap().split_once('(').unwrap();
                let line = starts
                    .lines()
                    .find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(';'));
                let first: u64 = line.unwrap().parse().unwrap();
                (device, first + extent.parse::<u64>().unwrap() * MIB)
            })
            .collect();
        let files: Vec<(File, u64)> = areas
            .iter()
            .map(|(device, start)| {
                let (disk, at) = disks[names.iter().position(|n| n == device).unwrap()];
                let file = File::options().write(true).open(self.path(disk)).unwrap();
                (file, at * MIB + start)
            })
            .collect();
        drop(loops);
        let bytes = std::fs::read(self.path("var.img")).unwrap();
        for (n, chunk) in bytes.chunks(STRIPE).enumerate() {
            let (file, start) = &files[n % files.len()];
            if chunk.iter().any(|byte| *byte != 0) {
                let at = start + (n / files.len() * STRIPE) as u64;
                file.write_all_at(chunk, at).unwrap();
            }
        }
    }

    /// `restorefs backup` of both disks.
    pub(crate) fn back_up(&self, point: &str) {
        let disks = ["vda=vda.raw", "vdb=vdb.raw"];
        self.place.ok(&[
            "backup", "db01", disks[0], disks[1], "--point", point, "--quiet",
        ]);
    }

    /// The guest's tree as the kernel joins it, but for the ESP.
    pub(crate) fn by_kernel(&self) -> Vec<Mounted> {
        let top = self.path("kernel");
        let mut mounts = vec![
            Mounted::new(&self.path("root.img"), &top, "loop,ro,noload"),
            Mounted::new(&self.path("var.img"), &top.join("var"), "loop,ro,noload"),
            Mounted::new(
                &self.path("home.img"),
                &top.join("home"),
                self.home.options(),
            ),
        ];
        // In the order in which they are to be undone.
        mounts.reverse();
        mounts
    }
}
