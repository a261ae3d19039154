//! lseek: SEEK_DATA and SEEK_HOLE.

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::world::{DISK_BYTES, World, ready, unmount};

#[test]
fn holes_are_found_and_reads_agree() {
    if !ready() {
        return;
    }
    let world = World::with_guest();
    let mount = world.mount();
    for path in [world.guest("sparse"), world.at("web01/first/disks/vda.raw")] {
        let file = std::fs::File::open(&path).unwrap();
        let size = file.metadata().unwrap().len();
        let whole = std::fs::read(&path).unwrap();
        let (mut at, mut holes) = (0, 0);
        while at < size {
            let data = seek(&file, SeekFrom::Data(at)).or_else(|e| match e {
                Errno::NXIO => Ok(size),
                e => Err(e),
            });
            let data = data.unwrap();
            holes += data - at;
            assert!(whole[at as usize..data as usize].iter().all(|b| *b == 0));
            if data == size {
                break;
            }
            at = seek(&file, SeekFrom::Hole(data)).unwrap();
            assert!(at > data);
        }
        assert!(holes > size / 2, "{holes} of {size}");
        assert_eq!(seek(&file, SeekFrom::Data(size)), Err(Errno::NXIO));
        assert_eq!(seek(&file, SeekFrom::Hole(size)), Err(Errno::NXIO));
    }
    let full = std::fs::File::open(world.guest("etc/passwd")).unwrap();
    assert_eq!(seek(&full, SeekFrom::Hole(0)), Ok(26));
    assert_eq!(seek(&full, SeekFrom::Data(3)), Ok(3));
    // The disk ends with the backup of its table: no hole before the end.
    let disk = std::fs::File::open(world.at("web01/first/disks/vda.raw")).unwrap();
    assert_eq!(seek(&disk, SeekFrom::Hole(DISK_BYTES - 1)), Ok(DISK_BYTES));
    drop((full, disk));
    unmount(&mount);
}
